"""`octavo chat`: what is asked, what is shown, and what Ctrl-C does."""

import io
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from octavo import LLM, SamplingParams
from octavo.cli.chat.lines import read_message
from octavo.cli.chat.screen import MarkdownScreen, split_blocks
from octavo.cli.main import main

from .processes import Terminal

MARKDOWN = """# Title

Some *text*
of two lines.

- one

  more of one
- two

```python
def f():

    return 1
```

~~~
```

x
~~~
[here](http://h/x)"""


@pytest.fixture
def chat(monkeypatch, capsys):
    """Runs the command with lines on stdin; gives (stdout, stderr)."""

    def run(*arguments, lines, code=0):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert main(["chat", *arguments]) == code
        return capsys.readouterr()

    return run


def asked(stub) -> list[list[str]]:
    """The contents of the messages of each request."""
    return [[message["content"] for message in body["messages"]] for body in stub.asked]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["  one line "], "one line"),
        (["one \\", "two\\", "three"], "one \ntwo\nthree"),
        (["one\\"], "one"),
        (['"""one', "", "  two", '"""', "next"], "one\n\n  two"),
        (['"""one"""'], "one"),
        (['"""', "no end"], "no end"),
        ([""], ""),
    ],
)
def test_a_message_is_a_line_or_several(typed, message):
    lines = iter(typed)

    def read_line(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    assert read_message(read_line) == message


def test_blocks_end_at_empty_lines_outside_of_code_and_lists():
    blocks, rest = split_blocks(MARKDOWN + "\n\nafter\n")
    assert [block.split("\n")[0] for block in blocks] == ["# Title", "Some *text*", "- one", "```python", "~~~"]
    assert blocks[2] == "- one\n\n  more of one\n- two"
    assert blocks[3].endswith("return 1\n```")
    assert rest == "after\n"


@given(st.lists(st.integers(0, len(MARKDOWN)), max_size=8))
def test_the_screen_shows_the_same_however_the_answer_is_cut(places):
    def shown(places):
        out = io.StringIO()
        screen = MarkdownScreen(Console(file=out, width=60))
        for begin, end in zip([0, *places], [*places, len(MARKDOWN)], strict=True):
            screen.add(MARKDOWN[begin:end])
        screen.end()
        return out.getvalue()

    assert shown(sorted(places)) == shown([])
    assert "def f():" in shown([])
    assert "http://h/x" in shown([])  # a link says where it leads


def test_what_a_model_writes_moves_no_cursor():
    out = io.StringIO()
    screen = MarkdownScreen(Console(file=out, width=60))
    screen.add("a\x1b[2Jb\x07\r\x9bc\td")
    screen.end()
    assert not set("\x1b\x07\r\x9b") & set(out.getvalue())


def test_without_a_terminal_each_line_is_a_question_and_answers_are_plain_text(chat, stub, stub_url):
    stub.tokens = ["**Hello**", "\n\n- x"]
    out, err = chat("--url", stub_url, "--system", "Be brief.", "--temperature", "0.5", lines=["one", "", "two"])
    assert (out, err) == ("**Hello**\n\n- x\n" * 2, "")
    answer = "**Hello**\n\n- x"
    assert asked(stub) == [["Be brief.", "one"], ["Be brief.", "one", answer, "two"]]
    assert [message["role"] for message in stub.asked[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert stub.asked[0] | {"messages": None} == {
        "model": "stub",
        "messages": None,
        "max_tokens": 256,  # half of the context that the server tells of
        "temperature": 0.5,
        "stream": True,
    }


def test_a_model_of_this_process_answers_as_the_offline_api_does(chat, tiny):
    greedy = {"temperature": 0, "max_tokens": 12}
    out, err = chat(tiny, "--temperature", "0", "--max-tokens", "12", lines=["hi", "and?"])
    llm, params, messages, expected = LLM(tiny), SamplingParams(**greedy), [], ""
    for question in ("hi", "and?"):
        messages.append({"role": "user", "content": question})
        answer = llm.chat(messages, params, use_tqdm=False)[0].outputs[0].text
        messages.append({"role": "assistant", "content": answer})
        expected += answer if answer.endswith("\n") else answer + "\n"
    assert (out, err) == (expected, "")


COMMANDS = {  # lines: the contents of the last request
    ("one", "/clear", "two"): ["two"],
    ("one", "/regenerate"): ["one"],
    ("one", "/system Be brief.", "two"): ["Be brief.", "one", "Hello, world!", "two"],
    ("/system Be brief.", "one", "/clear", "two"): ["Be brief.", "two"],
    ("/system Be brief.", "/system", "one"): ["one"],
    ("/etc/hosts has what?",): ["/etc/hosts has what?"],
    ("/clear \\", "means what?"): ["/clear \nmeans what?"],
    ("one", "/quit", "two"): ["one"],
}


@pytest.mark.parametrize(("lines", "contents"), COMMANDS.items(), ids=" ".join)
def test_commands_change_the_conversation(lines, contents, chat, stub, stub_url):
    chat("--url", stub_url, lines=lines)
    assert asked(stub)[-1] == contents


def test_commands_that_can_not_be_obeyed_say_why(chat, stub, stub_url):
    _, err = chat("--url", stub_url, lines=["/regenerate", "/x y", "/help"])
    assert err.startswith("there is no question yet\nno such command: /x; /help tells them\n/help ")
    assert not stub.asked


def test_a_conversation_is_saved_as_json_or_markdown_and_over_nothing(chat, stub_url, tmp_path):
    names = [tmp_path / "chat.json", tmp_path / "chat.md"]
    saves = [f"/save {file}" for file in names]
    _, err = chat("--url", stub_url, lines=["one", *saves])
    assert err == "".join(f"2 messages are in {file}\n" for file in names)
    saved = json.loads(names[0].read_text())
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "Hello, world!"}]
    assert saved == {"model": "stub", "messages": messages}
    assert names[1].read_text() == "**user**\n\none\n\n**assistant**\n\nHello, world!\n\n"
    _, err = chat("--url", stub_url, lines=["two", saves[0], "/save /nowhere/x", "/save"], code=2)
    assert [line.partition("chat.json ")[2] for line in err.splitlines()][:1] == ["is there already; give another name"]
    assert "/nowhere/x can't be written: No such file or directory" in err
    assert "/save FILE needs a name" in err
    assert json.loads(names[0].read_text()) == saved


def test_the_oldest_turns_are_forgotten_when_a_server_has_no_room(chat, stub, stub_url):
    too_long = {"message": "too long", "code": "context_length_exceeded"}
    stub.refuse = lambda body: (400, too_long, {}) if len(body["messages"]) > 4 else None
    _, err = chat("--url", stub_url, "--system", "S", lines=["one", "two", "three"])
    answer = "Hello, world!"
    assert asked(stub)[-2:] == [["S", "one", answer, "two", answer, "three"], ["S", "two", answer, "three"]]
    assert err == "(the conversation is too long: its oldest turn was forgotten; /clear begins anew)\n"


def test_the_oldest_turns_are_forgotten_when_a_model_of_this_process_has_no_room(chat, tiny):
    limits = ["--max-model-len", "64", "--max-tokens", "8", "--ignore-eos"]
    _, err = chat(tiny, *limits, lines=["one", "two", "three", "four"])
    assert "oldest turn was forgotten" in err
    _, err = chat(tiny, *limits, lines=["x" * 60, "ok"], code=2)
    assert err.startswith("octavo: the question is too long: 82 tokens and up to 8 of an answer")
    assert err.count("\n") == 1  # the second question has an answer


def test_a_question_that_got_no_answer_is_not_in_the_conversation(chat, stub, stub_url):
    refusals = [(500, {"message": "no luck"}, {})]
    stub.refuse = lambda body: refusals.pop() if refusals else None
    out, err = chat("--url", stub_url, lines=["one", "two"], code=2)
    assert asked(stub) == [["one"], ["two"]]
    assert err == "octavo: the server says 500: no luck\n"
    assert out.strip() == "Hello, world!"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{base}"], "has no chat template; octavo complete continues text"),
        (["--url", "http://127.0.0.1:1"], "can't connect: Connection refused"),
        (
            ["--url", "{url}", "--dtype", "half"],
            "--dtype is for a model in this process; with --url the server decides",
        ),
        (["--api-key", "x"], "--api-key is for a server: give its --url too"),
        (["--url", "{url}", "--api-key", "a b"], "--api-key: a key has printable ASCII characters only"),
        (["--url", "{url}", "--temperature", "-1"], "--temperature must be a finite number"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, says, chat, stub_url, tiny_without_template):
    words = [word.format(url=stub_url, base=tiny_without_template) for word in arguments]
    out, err = chat(*words, lines=["hi"], code=2)
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_a_terminal_shows_each_block_once_and_rendered(stub, stub_url):
    stub.tokens, stub.delay = ["# Ti", "tle\n\nSome **bo", "ld**.\n", "\n```\na\n", "\nb\n```\n", "\n- x", "\n- y"], 0.1
    with Terminal("chat", "--url", stub_url) as terminal:
        terminal.wait(lambda lines: lines[-1] == ">")
        terminal.type("hi\n")
        lines = terminal.wait(lambda lines: lines[-1] == ">" and len(lines) > 2)
        assert terminal.leave() == 0
    shown = [line.strip() for line in lines if line.strip()]
    hello = "stub · /help tells the commands, Ctrl-D leaves"
    assert shown == [hello, "> hi", "Title", "Some bold.", "a", "b", "• x", "• y", ">"]


def test_ctrl_c_stops_the_answer_and_not_the_program(stub, stub_url):
    stub.tokens, stub.delay = ["word "] * 100, 0.03
    with Terminal("chat", "--url", stub_url) as terminal:
        terminal.wait(lambda lines: lines[-1] == ">")
        terminal.type("hi\n")
        terminal.wait(lambda lines: "word word word" in lines[-1])
        terminal.type("\x03")
        lines = terminal.wait(lambda lines: lines[-1] == ">")
        assert lines[-2] == "(stopped)"
        assert not any("^C" in line for line in lines)
        stub.tokens, stub.delay = ["done"], 0.0
        terminal.type("more\n")
        terminal.wait(lambda lines: lines[-3:] == ["done", "", ">"])
        terminal.type("\x03")
        terminal.wait(lambda lines: "(Ctrl-D leaves)" in lines[-2])
        assert terminal.leave() == 0
    question, answer, more = asked(stub)[-1]
    assert (question, more) == ("hi", "more")
    assert 3 <= answer.count("word") < 100
    for _ in range(100):  # the server was told by closing the connection
        if not stub.num_running:
            break
        time.sleep(0.02)
    assert stub.num_running == 0


def test_ctrl_c_stops_a_model_of_this_process(tiny_with_long_context):
    with Terminal("chat", tiny_with_long_context, "--max-tokens", "30000", "--ignore-eos") as terminal:
        terminal.wait(lambda lines: lines[-1] == ">")
        for _ in range(2):
            terminal.type("hi\n")
            terminal.wait(lambda lines: lines[-1] != ">")
            time.sleep(0.2)
            terminal.type("\x03")
            terminal.wait(lambda lines: lines[-2:] == ["(stopped)", ">"])
        assert terminal.leave() == 0


def test_a_terminal_that_shrinks_in_an_answer_shows_each_line_once(stub, stub_url):
    words = [f"word{i:02d} " for i in range(40)]
    stub.tokens, stub.delay = [*words, "\n\nThe end."], 0.05
    with Terminal("chat", "--url", stub_url) as terminal:
        terminal.wait(lambda lines: lines[-1] == ">")
        terminal.type("hi\n")
        terminal.wait(lambda lines: "word25" in "".join(lines))
        stub.delay = 2  # a pause: what is drawn while a window changes its size is for either
        terminal.resize(40, 30)
        stub.delay = 0.05
        lines = terminal.wait(lambda lines: "The end." in lines and lines[-1] == ">")
        assert terminal.leave() == 0
    text = " ".join(lines)
    assert [text.count(word.strip()) for word in words] == [1] * 40
