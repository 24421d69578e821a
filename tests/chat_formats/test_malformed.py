"""What looks like a call and is none is text; arguments that break off are closed; nothing raises."""

import json
import random

import pytest

from chat_formats.test_reader import USE, answers, reader
from chat_formats.written import FORMATS, chat_format, read
from octavo.chat_formats.values import closing


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call>nothing</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "ping", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "ping", "arguments": "{"}</tool_call>',
        "<tool_call>" + "[" * 1000,
        '<tool_call>{"name": "pi\nng"}</tool_call>',
    ],
)
def test_what_is_no_call_is_text_whole(text):
    for before in ("", "Look: "):
        answer = read(reader("hermes"), before + text)
        assert (answer.content, answer.calls) == (before + text, [])
        assert read(reader("hermes"), before + text, range(1, len(before + text))) == answer


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "ping", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"arguments": {"a": 1}, "name": "ping"}', {"a": 1}),
        ('{"name": "ping", "parameters": {"a": 1}}', {"a": 1}),
        ('{"name": "ping"}', {}),
        ('{"name": "ping", "arguments": null}', {}),
        ('{ "name" :\n"ping" , "id": "x", "arguments" : { "a" : 1 } , "b": 2 }', {"a": 1}),
    ],
)
def test_calls_may_be_written_a_little_differently(text, arguments):
    for around in (f"<tool_call>{text}</tool_call>", f"<tool_call>\n\n{text}"):
        (call,) = read(reader("hermes"), around, range(1, len(around))).calls
        assert json.loads(call.arguments) == arguments


@pytest.mark.parametrize("name", FORMATS)
def test_answers_with_a_piece_missing_or_wrong_never_raise_and_are_the_same_at_every_cut(name):
    rng = random.Random(name)
    for text, _, _ in answers(name, 40):
        begin = rng.randrange(len(text))
        broken = text[:begin] + rng.choice(["", "x", '"', "}", "\\", "<"]) + text[begin + rng.randint(0, 5) :]
        whole = read(reader(name), broken)
        assert read(reader(name), broken, range(1, len(broken))) == whole
        for call in whole.calls:
            assert isinstance(json.loads(call.arguments), dict), broken


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_that_is_cut_has_the_beginning_of_its_arguments(name):
    for text, _, _ in answers(name, 5):
        whole = read(reader(name), text)
        for end in range(len(text)):
            cut = read(reader(name), text[:end], is_cut=True)
            if cut.calls:
                assert whole.calls[len(cut.calls) - 1].arguments.startswith(cut.calls[-1].arguments)
            for call in read(reader(name), text[:end]).calls:
                assert isinstance(json.loads(call.arguments), dict)


BROKEN_OFF = ["{", '{"', '{"a', '{"a"', '{"a":', '{"a": [1', '{"a": [1,', '{"a": {"b": "x\\"', '{"a": 1,', '{"a": "[{"']


@pytest.mark.parametrize("text", [*BROKEN_OFF, "{}"])
def test_arguments_that_break_off_are_closed(text):
    assert isinstance(json.loads(text + closing(text)), dict)


def test_special_tokens_that_are_no_marks_are_no_text():
    found = read(chat_format("hermes", special=["<|im_end|>"]).reader("", USE), "Hello<|im_end|> you", [7])
    assert found.content == "Hello you"
    kept = chat_format("hermes", special=["<|im_end|>"]).reader("", USE, drops_special_tokens=False)
    assert read(kept, "Hello<|im_end|>").content == "Hello<|im_end|>"
