"""What is said of a wrong field: its name and index, the limit, and what was got."""

import json

import pytest

from octavo.server.body import parse
from octavo.server.errors import HttpError
from octavo.server.protocol.chat import ChatRequest
from octavo.server.protocol.completions import CompletionRequest
from octavo.server.protocol.tokens import DetokenizeRequest

HELLO = {"role": "user", "content": "Hello"}
PROMPTS = {
    "nothing": (None, "prompt: must be a string or a list, got null"),
    "a number": (5, "prompt: must be a string or a list, got 5"),
    "an object": ({}, "prompt: must be a string or a list, got an object"),
    "an empty list": ([], "prompt: must have at least 1 entry, got 0"),
    "a fraction": ([1.5], "prompt[0]: must be a string, an integer or a list, got 1.5"),
    "true": ([True], "prompt[0]: must be a string, an integer or a list, got true"),
    "a number among texts": (["a", "b", 1], "prompt[2]: must be a string, got 1"),
    "a text among ids": ([1, 2, "a"], 'prompt[2]: must be an integer, got "a"'),
    "a text among lists of ids": ([[1], "a"], 'prompt[1]: must be a list, got "a"'),
    "a text in a list of ids": ([[1], [2, "a"]], 'prompt[1][1]: must be an integer, got "a"'),
    "a negative id": ([1, -1], "prompt[1]: must be at least 0, got -1"),
    "a huge id": ([10**50], f"prompt[0]: must be at most 2147483647, got {'1' + 39 * '0'}…"),
}
FIELDS = {
    "many stops": ("stop", ["a"] * 10_000, "stop: must have at most 64 entries, got 10000"),
    "a stop that is no text": ("stop", ["a", 5], "stop[1]: must be a string, got 5"),
    "an empty stop": ("stop", ["a", ""], "stop[1]: must have at least 1 character, got 0"),
    "a long stop": ("stop", "a" * 1025, "stop: must have at most 1024 characters, got 1025"),
    "stop, a number": ("stop", 5, "stop: must be a string or a list, got 5"),
    "a text for a number": ("n", "2", 'n: must be an integer, got "2"'),
    "a long text for a number": ("n", "2" * 100_000, f'n: must be an integer, got "{"2" * 39}…'),
    "a number that is too small": ("temperature", -0.5, "temperature: must be at least 0, got -0.5"),
    "a number that is too large": ("min_p", 2, "min_p: must be at most 1, got 2"),
    "a number on an open bound": ("top_p", 0, "top_p: must be more than 0, got 0"),
    "a number for true": ("ignore_eos", 1, "ignore_eos: must be true or false, got 1"),
    "a list for a number": ("seed", [1, 2], "seed: must be an integer, got a list of 2"),
    "an id that is no number": ("stop_token_ids", [1, None], "stop_token_ids[1]: must be an integer, got null"),
    "a bias of nothing": ("logit_bias", {"5": "x"}, "logit_bias: the bias of token 5 must be a number"),
    "an option of an option": (
        "stream_options",
        {"include_usage": 1},
        "stream_options.include_usage: must be true or false, got 1",
    ),
    "what is not known": ("shout", True, "shout is not known here; no field is ignored"),
}
MESSAGES = {
    "no list": ("Hello", 'messages: must be a list, got "Hello"'),
    "too many": ([HELLO] * 4097, "messages: must have at most 4096 entries, got 4097"),
    "no object": ([HELLO, "Hello"], 'messages[1]: must be an object, got "Hello"'),
    "no role": ([HELLO, {"content": ""}], "messages[1].role: this field is required"),
    "a content that is a number": (
        [HELLO, {**HELLO, "content": 5}],
        "messages[1].content: must be a string or a list, got 5",
    ),
    "a part without a text": (
        [HELLO, {**HELLO, "content": [{"type": "text"}]}],
        "messages[1].content[0].text: this field is required",
    ),
    "a part of another kind": (
        [{**HELLO, "content": [{"type": "text", "text": "a"}, {"type": "shout", "text": "a"}]}],
        "messages[0].content[1].type: must be 'text', got \"shout\"",
    ),
    "a picture": (
        [{**HELLO, "content": [{"type": "image_url", "image_url": {}}]}],
        "messages[0].content[0].image_url is not supported: contents are text",
    ),
}


def said(model, body):
    with pytest.raises(HttpError) as caught:
        parse(json.dumps(body).encode(), model)
    return caught.value


@pytest.mark.parametrize(("prompt", "message"), PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_is_refused_with_the_place_that_is_wrong(prompt, message):
    error = said(CompletionRequest, {"prompt": prompt})
    assert (str(error), error.param) == (message, "prompt")


@pytest.mark.parametrize(("name", "value", "message"), FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_field_is_refused_with_its_limit_and_what_was_got(kind, name, value, message):
    base = {"messages": [HELLO]} if kind == "chat" else {"prompt": "a"}
    error = said(ChatRequest if kind == "chat" else CompletionRequest, {**base, name: value})
    assert str(error) == message
    assert error.param.split(".")[0] == name


@pytest.mark.parametrize(("messages", "message"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_is_refused_with_its_index(messages, message):
    error = said(ChatRequest, {"messages": messages})
    assert str(error) == message
    assert error.param.split(".")[0] == "messages"


def test_the_name_of_an_entry_is_cut_and_is_unicode():
    error = said(ChatRequest, {"messages": [HELLO], "metadata": {"\ud800" * 1000: 1}})
    assert str(error) == f"metadata.{80 * chr(0xFFFD)}: must be a string, got 1"


def test_a_missing_field_is_named():
    error = said(DetokenizeRequest, {})
    assert (str(error), error.param, error.code) == ("tokens: this field is required", "tokens", "missing_field")
