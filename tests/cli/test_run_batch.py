"""`octavo run-batch`: every line gets one entry, whatever happens on the way."""

import asyncio
import fcntl
import json
import signal
import subprocess
import time

import pytest

from octavo import LLM, SamplingParams
from octavo.cli.main import main
from octavo.client.api import CHAT, COMPLETIONS

from .processes import COMMAND, ENVIRONMENT, hear_interrupts
from .test_embed import model as words  # noqa: F401


def line(custom_id="a", url=CHAT, **fields) -> dict:
    """A request of a batch: a chat or a completion of "hi"; `fields` are added to its body."""
    body = {"messages": [{"role": "user", "content": "hi"}]} if url == CHAT else {"prompt": "hi"}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**body, **fields}}


class Batch:
    """The two files of a batch, and what the command says about them."""

    def __init__(self, folder, capsys):
        self.file, self.out, self.capsys = folder / "in.jsonl", folder / "out.jsonl", capsys

    def write(self, *lines) -> None:
        self.file.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))

    @property
    def arguments(self) -> list[str]:
        return ["run-batch", "-i", str(self.file), "-o", str(self.out)]

    def run(self, *arguments, code=0) -> str:
        """Runs the command in this process, and returns its last line on stderr."""
        assert main([*self.arguments, *arguments]) == code
        out, err = self.capsys.readouterr()
        assert out == ""
        return err.splitlines()[-1]

    def entries(self) -> list[dict]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def answers(self) -> dict[str, str]:
        """The text of each answer; every custom_id must be there once."""
        texts = {}
        for entry in self.entries():
            assert entry["error"] is None
            assert entry["response"]["status_code"] == 200
            assert entry["custom_id"] not in texts
            (choice,) = entry["response"]["body"]["choices"]
            texts[entry["custom_id"]] = choice["message"]["content"] if "message" in choice else choice["text"]
        return texts

    def errors(self) -> dict[int, str]:
        return {entry["error"]["line"]: entry["error"]["message"] for entry in self.entries() if entry["error"]}


@pytest.fixture
def batch(tmp_path, capsys):
    return Batch(tmp_path, capsys)


@pytest.fixture
def pauses(monkeypatch):
    """Nobody waits, but it is noted for how long they would have."""
    noted, sleep = [], asyncio.sleep

    async def skip(seconds):
        if seconds:
            noted.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", skip)
    return noted


def test_answers_are_those_of_the_offline_api(batch, tiny):
    greedy = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
    batch.write(line("chat", **greedy), line("text", COMPLETIONS, **greedy), line("named", model="mine", **greedy))
    assert batch.run(tiny, "--served-model-name", "mine") == f"octavo: 3 answered, 0 of them with an error: {batch.out}"
    llm, params = LLM(tiny), SamplingParams(**greedy)
    chat = llm.chat([{"role": "user", "content": "hi"}], params, use_tqdm=False)[0].outputs[0].text
    text = llm.generate("hi", params, use_tqdm=False)[0].outputs[0].text
    assert batch.answers() == {"chat": chat, "text": text, "named": chat}


def test_a_server_gets_the_bodies_as_they_are_and_its_own_model_where_they_name_none(batch, stub, stub_url):
    batch.write(line("a", top_p=0.5), line("b", COMPLETIONS, model="other"))
    batch.run("--url", stub_url, "--max-concurrency", "1")
    assert batch.answers() == {"a": "Hello, world!", "b": "Hello, world!"}
    assert stub.asked == [{"model": "stub", **line(top_p=0.5)["body"]}, line("b", COMPLETIONS, model="other")["body"]]


def test_a_server_gets_as_many_requests_at_a_time_as_was_said(batch, stub, stub_url):
    stub.delay = 0.01
    batch.write(*(line(str(i)) for i in range(12)))
    batch.run("--url", stub_url, "--max-concurrency", "3")
    assert len(batch.answers()) == 12
    assert stub.most_running == 3


def test_batches_embed_and_rank(batch, words):  # noqa: F811
    asked = {
        "e": ("/v1/embeddings", {"input": ["the cat", "dog"]}),
        "r": ("/v1/rerank", {"query": "cat", "documents": ["dog", "cat"]}),
        "s": ("/score", {"text_1": "cat", "text_2": "cat"}),
    }
    batch.write(*({"custom_id": i, "method": "POST", "url": url, "body": body} for i, (url, body) in asked.items()))
    batch.run(words)
    found = {entry["custom_id"]: entry["response"]["body"] for entry in batch.entries()}
    assert [len(entry["embedding"]) for entry in found["e"]["data"]] == [48, 48]
    assert [entry["index"] for entry in found["r"]["results"]] == [1, 0]
    assert found["s"]["data"][0]["score"] == pytest.approx(1, abs=1e-3)


BAD_LINES = {
    "no json": "is not JSON",
    "[1, 2]": "must be a JSON object",
    "[" * 100_000: "",
    '{"method": "POST"}': "custom_id: must be a text of 1 to 512 characters, got None",
    json.dumps(line("good")): "custom_id: 'good' is that of line 1 too",
    json.dumps(line("x") | {"priority": 1}): "priority: is not known; a line has custom_id, method, url, body",
    json.dumps(line("x") | {"method": "GET"}): "method: must be 'POST', got 'GET'",
    json.dumps(
        line("x") | {"url": "/v1/images"}
    ): "url: must be /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages",
    json.dumps(line("x") | {"body": "hi"}): "body: must be a JSON object, got 'hi'",
    json.dumps(line("x", stream=True)): "body.stream: not in a batch",
}


def test_a_bad_line_gets_an_entry_that_names_line_and_field_and_the_others_are_answered(batch, stub, stub_url):
    batch.write(line("good"), *BAD_LINES, "", line("last"))
    batch.file.write_bytes(batch.file.read_bytes() + b"\xff\n")
    assert f"13 answered, {len(BAD_LINES) + 1} of them with an error" in batch.run("--url", stub_url)
    errors = batch.errors()
    for number, says in enumerate(BAD_LINES.values(), 2):
        assert errors.pop(number).startswith(f"line {number}: {says}")
    assert errors == {len(BAD_LINES) + 4: f"line {len(BAD_LINES) + 4}: is not UTF-8: invalid start byte at byte 0"}
    assert len(stub.asked) == 2
    batch.run("--url", stub_url)
    assert len(stub.asked) == 2  # bad lines are known again


def test_what_the_engine_refuses_names_line_and_field(batch, tiny):
    batch.write(line("a", temperature=-1), line("b", model="other"), line("c", max_tokens=1))
    batch.run(tiny)
    statuses = {entry["custom_id"]: entry["response"]["status_code"] for entry in batch.entries()}
    assert statuses == {"a": 400, "b": 404, "c": 200}
    assert batch.errors()[1].startswith("line 1: body.temperature: ")
    assert "other" in batch.errors()[2]


def test_a_model_without_a_template_still_completes(batch, tiny_without_template):
    batch.write(line("a", max_tokens=1), line("b", COMPLETIONS, max_tokens=1))
    batch.run(tiny_without_template)
    assert {entry["custom_id"]: entry["response"]["status_code"] for entry in batch.entries()} == {"a": 400, "b": 200}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_is_gone_on_with(batch, stub, stub_url, number):
    stub.delay = 0.05
    batch.write(*(line(str(i)) for i in range(40)))
    command = [*COMMAND, *batch.arguments, "--url", stub_url, "--max-concurrency", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=ENVIRONMENT, preexec_fn=hear_interrupts) as process:
        while not batch.out.exists() or len(batch.out.read_bytes().splitlines()) < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert err == b""
    num_done = len(batch.entries())
    assert 4 <= num_done < 40
    stub.delay = 0.0
    assert f"{40 - num_done} answered, 0 of them with an error, {num_done} had an answer before" in batch.run(
        "--url", stub_url
    )
    assert len(batch.answers()) == 40
    assert len(stub.asked) <= 40 + 2  # only what was under way is asked again


@pytest.mark.parametrize("length", [1, 10, 200, -1])
def test_an_entry_that_was_not_written_whole_is_written_again(batch, stub_url, length):
    batch.write(*map(line, "abc"))
    batch.run("--url", stub_url)
    whole = batch.out.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    batch.out.write_bytes(whole.removesuffix(last) + last[:length])
    batch.run("--url", stub_url)
    assert batch.answers().keys() == set("abc")


def test_another_file_is_not_written_to(batch, stub_url):
    batch.write(line())
    for text in ("my notes\n", "my notes", '{"custom_id": "a"}\n'):
        batch.out.write_text(text)
        assert "line 1 is no entry of a batch's answers" in batch.run("--url", stub_url, code=2)
        assert batch.out.read_text() == text


def test_two_runs_do_not_write_the_same_file(batch, stub, stub_url):
    batch.write(line())
    with batch.out.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another run is writing it" in batch.run("--url", stub_url, code=2)
    assert not stub.asked


def test_a_busy_server_is_asked_again_when_it_says(batch, stub, stub_url, pauses):
    busy = [(503, {"message": "busy"}, {"retry-after": "7"}), (429, {"message": "slower"}, {})]
    stub.refuse = lambda body: busy.pop(0) if busy else None
    batch.write(line())
    batch.run("--url", stub_url)
    assert batch.answers() == {"a": "Hello, world!"}
    assert pauses == [7.0, 1.0]


def test_a_refusal_is_final_unless_it_may_go_better_later(batch, stub, stub_url, pauses):
    stub.refuse = lambda body: (
        body["max_tokens"],
        {"message": "no", "code": "why", "param": "x"},
        {"x-request-id": "7"},
    )
    batch.write(line("a", max_tokens=400), line("b", max_tokens=503))
    assert "2 answered, 2 of them" in batch.run("--url", stub_url)
    entries = {entry["custom_id"]: entry for entry in batch.entries()}
    assert entries["a"]["error"] == {"code": "why", "message": "line 1: body.x: no", "line": 1}
    assert entries["a"]["response"]["request_id"] == "7"
    assert entries["b"]["response"]["status_code"] == 503
    assert [body["max_tokens"] for body in stub.asked].count(400) == 1
    assert len(pauses) + 1 == [body["max_tokens"] for body in stub.asked].count(503) == 6


def test_a_server_that_stays_away_ends_the_run(batch, pauses):
    batch.write(line())
    assert "can't connect" in batch.run("--url", "http://127.0.0.1:1", "--model", "x", code=2)
    assert pauses
    assert batch.entries() == []


def test_a_batch_that_is_done_needs_no_model(batch, stub_url):
    batch.write(line())
    batch.run("--url", stub_url)
    assert "0 answered, 0 of them with an error, 1 had an answer before" in batch.run("/nowhere/at-all")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-i", "{folder}/none"], "none: there is no such file"),
        (["-i", "/dev/zero"], "/dev/zero: is no regular file"),
        (["-o", "{folder}/in.jsonl"], "are the same file"),
        (["-o", "{folder}/none/out"], "No such file or directory"),
        (["--max-concurrency", "2"], "--max-concurrency is for --url; here --max-num-seqs says it"),
        (["--api-key", "x"], "--api-key is for a server: give its --url too"),
        (["--url", "http://h", "--served-model-name", "x"], "--served-model-name is for a model in this process"),
        (["--url", "http://h", "--max-num-seqs", "2"], "--max-num-seqs is for a model in this process"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(batch, tmp_path, arguments, says):
    batch.write(line())
    assert says in batch.run(*(word.format(folder=tmp_path) for word in arguments), code=2)
