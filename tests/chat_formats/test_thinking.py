"""What a model thinks is told apart from its answer, wherever the text is cut."""

import pytest

from chat_formats.written import TOOLS, chat_format, read
from octavo.chat_formats.parts import Answer, PlainReader, Reasoning
from octavo.chat_formats.tools import ToolUse

CALL = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
HARMONY = (
    "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary<|message|>I look."
    "<|end|><|start|>assistant<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
)


def parts_of(calls, text, thinking, prompt="", use=None, **options):
    """The answer, the same at every cut."""

    def reader():
        return chat_format(calls, thinking).reader(prompt, use or ToolUse())

    whole = read(reader(), text, **options)
    assert read(reader(), text, range(1, len(text)), **options) == whole
    return whole.reasoning, whole.content, [call.name for call in whole.calls]


@pytest.mark.parametrize(
    ("prompt", "text", "reasoning", "content"),
    [
        ("", "<think>\nHm.\n</think>\n\nHello.\n", "Hm.", "Hello.\n"),
        ("", "\n<think>Hm.</think>Hello.", "Hm.", "Hello."),
        ("…<think>\n", "Hm.\n</think>\n\nHello.", "Hm.", "Hello."),
        ("…<think>\n", "<think>Hm.</think>Hello.", "Hm.", "Hello."),
        ("…<think>\n", "Hm. I never", "Hm. I never", ""),
        ("…<think>\n\n</think>\n\n", "Hello </think> you.", "", "Hello </think> you."),
        ("", "Hello <think>you</think>", "", "Hello <think>you</think>"),
        ("", "<thin", "", "<thin"),
        ("", "<think></think>", "", ""),
        ("…<think>", "a </thin b < c</think> d", "a </thin b < c", "d"),
    ],
)
def test_thinking_is_what_is_between_the_marks_whoever_wrote_the_first(prompt, text, reasoning, content):
    assert parts_of("hermes", text, "think", prompt) == (reasoning, content, [])


def test_a_model_that_always_thinks_may_leave_out_the_first_mark():
    assert parts_of("hermes", "Hm.</think>Hello.", "think-always") == ("Hm.", "Hello.", [])
    assert parts_of("hermes", "<think>Hm.</think>Hello.", "think-always") == ("Hm.", "Hello.", [])


def test_calls_come_behind_thinking_and_none_is_read_inside_of_it():
    text = f"<think>I could {CALL}.</think>\n\nLook:\n{CALL}"
    found = parts_of("hermes", text, "think", use=ToolUse(callable=TOOLS))
    assert found == (f"I could {CALL}.", "Look:", ["ping"])


@pytest.mark.parametrize(
    ("end", "content", "calls"),
    [
        ("<|channel|>final<|message|>Hello.<|return|>", "I look.\nHello.", []),
        ("<|channel|>commentary to=functions.ping <|constrain|>json<|message|>{}<|call|>", "I look.", ["ping"]),
        (" to=functions.ping<|channel|>commentary json<|message|>{}", "I look.", ["ping"]),
        ("<|channel|>commentary to=functions.none<|message|>{}", "I look.\n{}", []),
    ],
)
def test_channels_of_gpt_oss(end, content, calls):
    use = ToolUse(callable=TOOLS)
    assert parts_of("harmony", HARMONY + end, "harmony", use=use) == ("Let me see.\nHm.", content, calls)


@pytest.mark.parametrize("text", ["Hello.", "<|start|>x", "<|channel|>analysis", "<|", "a <|channel|>b"])
def test_no_text_of_gpt_oss_is_lost_where_it_has_no_channels(text):
    reasoning, content, _ = parts_of("harmony", text, "harmony")
    assert reasoning == ""
    assert content.strip() == text.removeprefix("<|start|>")


def test_the_characters_that_were_thought_are_counted_with_their_marks():
    reader = chat_format("hermes", "think").reader("", ToolUse())
    for char in "<think>Hm.</think>Hello.":
        reader.feed(char)
    reader.end()
    assert reader.num_thought == len("<think>Hm.</think>")


def test_thinking_is_told_as_it_comes():
    reader = chat_format("hermes", "think").reader("<think>\n", ToolUse())
    assert reader.feed("One ") == [Reasoning("One")]
    assert reader.feed("two") == [Reasoning(" two")]


def test_answers_of_models_that_neither_think_nor_have_tools_are_text():
    assert isinstance(chat_format("hermes").reader("", ToolUse()), PlainReader)
    assert read(PlainReader(), "<think>", [3]) == Answer(content="<think>")
