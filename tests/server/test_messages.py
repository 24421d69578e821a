"""Anthropic's API: text and calls whole and streamed, counting, and errors in its shape."""

import json

import pytest

from .conftest import MODEL

HELLO = [{"role": "user", "content": "Name the capital of France."}]
GREEDY = {"model": MODEL, "max_tokens": 16, "temperature": 0}
TOOL = {"name": "get_weather", "description": "The weather", "input_schema": {"type": "object", "properties": {}}}
ASKED = {"role": "user", "content": "How is the weather in Paris?"}
CALLED = {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}]}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny"}


def post(http, **fields):
    return http.post("/v1/messages", json={**GREEDY, "messages": HELLO, **fields})


def events_of(http, **fields):
    """(names, data) of a stream."""
    with http.stream("POST", "/v1/messages", json={**GREEDY, "messages": HELLO, "stream": True, **fields}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    data = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [each["type"] for each in data]
    return data


def test_a_message_is_answered_in_blocks(http):
    message = post(http).json()
    assert message["id"].startswith("msg_")
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", MODEL)
    assert message["content"] == [{"type": "text", "text": "The capital of France is Paris.", "citations": None}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    assert message["usage"]["output_tokens"] == 8


def test_a_stream_has_the_begin_the_deltas_and_the_end_of_each_block(http):
    whole = post(http).json()
    start, ping, begin, *deltas, stop, delta, end = events_of(http)
    assert start["message"]["content"] == []
    assert start["message"]["stop_reason"] is None
    assert ping == {"type": "ping"}
    assert begin == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": "", "citations": None},
    }
    assert {each["delta"]["type"] for each in deltas} == {"text_delta"}
    assert "".join(each["delta"]["text"] for each in deltas) == whole["content"][0]["text"]
    assert stop == {"type": "content_block_stop", "index": 0}
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert end == {"type": "message_stop"}


def test_cached_tokens_are_counted_apart(http):
    body = {"messages": [{"role": "user", "content": "Count the tokens of this, please. " * 8}]}
    first, second = (post(http, **body).json()["usage"] for _ in range(2))
    assert second["cache_read_input_tokens"] > 0
    assert sum(first[name] for name in ("input_tokens", "cache_read_input_tokens")) == sum(
        second[name] for name in ("input_tokens", "cache_read_input_tokens")
    )
    counted = http.post("/v1/messages/count_tokens", json={"model": MODEL, **body}).json()
    assert counted == {"input_tokens": second["input_tokens"] + second["cache_read_input_tokens"]}


def test_it_says_which_stop_sequence_ended_the_text(http):
    message = post(http, stop_sequences=["nothing", " France"]).json()
    assert message["content"][0]["text"] == "The capital of"
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", " France")


@pytest.mark.parametrize(("max_tokens", "reason"), [(4, "max_tokens"), (100_000, "model_context_window_exceeded")])
def test_an_answer_that_is_cut_says_by_what(http, max_tokens, reason):
    long = [{"role": "user", "content": "Tell me a story. " * 400}]
    assert post(http, messages=long, max_tokens=max_tokens).json()["stop_reason"] == reason


def test_an_answer_goes_on_with_what_the_assistant_has_begun(http):
    begun = [*HELLO, {"role": "assistant", "content": "The capital of France is"}]
    assert post(http, messages=begun).json()["content"][0]["text"].startswith(" Paris")


@pytest.mark.parametrize("system", ["Answer in one word.", [{"type": "text", "text": "Answer in one word."}]])
def test_a_system_prompt_is_a_message_before_all_others(http, system):
    chat = {"model": MODEL, "messages": [{"role": "system", "content": "Answer in one word."}, *HELLO]}
    expected = http.post("/tokenize", json=chat).json()["count"]
    counted = http.post("/v1/messages/count_tokens", json={"messages": HELLO, "system": system}).json()
    assert counted["input_tokens"] == expected


def test_a_history_of_calls_is_that_of_chat_completions(http):
    messages = [ASKED, CALLED, {"role": "user", "content": [RESULT, {"type": "text", "text": "And in Rome?"}]}]
    function = {"name": TOOL["name"], "description": TOOL["description"], "parameters": TOOL["input_schema"]}
    call = {"id": "toolu_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    chat = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Sunny"},
        {"role": "user", "content": "And in Rome?"},
    ]
    tools = [{"type": "function", "function": function}]
    expected = http.post("/tokenize", json={"messages": chat, "tools": tools}).json()["count"]
    body = {"messages": messages, "tools": [TOOL]}
    assert http.post("/v1/messages/count_tokens", json=body).json() == {"input_tokens": expected}


def user(*blocks):
    return [{"role": "user", "content": list(blocks)}]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
WRONG = {
    "an image": ({"messages": user(IMAGE)}, r"messages\[0\].content\[0\]: .*got \"image\""),
    "a tool of the server": (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        r"tools\[0\].type: must be 'custom', got \"web_search_20250305\"",
    ),
    "a schema that is none": (
        {"tools": [{**TOOL, "input_schema": []}]},
        r"tools\[0\].input_schema: must be an object",
    ),
    "equal names of tools": ({"tools": [TOOL, TOOL]}, "tools: entries 0 and 1 have the same name"),
    "a long name of a tool": ({"tools": [{**TOOL, "name": "x" * 1000}]}, r"tools\[0\].name: "),
    "a tool that is not there": (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}},
        "tool_choice: there is no tool 'other'",
    ),
    "a result without a call": ({"messages": user(RESULT)}, r"messages\[0\].content\[0\].tool_use_id"),
    "a call without a result": ({"messages": [ASKED, CALLED]}, r"messages\[1\]: .*tool_result"),
    "a call of the user": (
        {"messages": user(CALLED["content"][0])},
        r"messages\[0\].content\[0\]: a block of type tool_use belongs to a message of the role assistant",
    ),
    "an unknown field": ({"messages": HELLO, "n": 2}, "n is not known here"),
    "no limit": ({"max_tokens": None}, "max_tokens: must be an integer, got null"),
    "a temperature": ({"temperature": -1}, "temperature: must be at least 0, got -1"),
    "too many stop sequences": ({"stop_sequences": ["a"] * 100}, "stop_sequences: must have at most"),
    "no messages": ({"messages": []}, "messages: must have at least 1 entry, got 0"),
    "a long prompt": ({"messages": [{"role": "user", "content": "a " * 5000}]}, "maximum context length is 2048"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_by_its_path_in_anthropics_shape(http, what):
    fields, pattern = WRONG[what]
    answer = post(http, **fields)
    assert answer.status_code == 400
    body = answer.json()
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["type"] == "invalid_request_error"
    assert_matches(pattern, body["error"]["message"])
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


def assert_matches(pattern, text):
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


@pytest.mark.parametrize(
    ("path", "method", "status", "kind"),
    [
        ("/v1/messages/batches", "POST", 404, "not_found_error"),
        ("/v1/messages", "GET", 405, "invalid_request_error"),
    ],
)
def test_other_paths_and_methods_have_its_shape_too(http, path, method, status, kind):
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


def test_a_model_that_is_not_there_is_not_found(http):
    answer = post(http, model="claude")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert "Served: " in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_has_its_shape(http):
    answer = post(http, messages=[{"role": "user", "content": "a" * (5 << 20)}])
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


def test_a_key_may_be_in_anthropics_header(start, tiny_model):
    server = start(tiny_model, "--api-key", "secret", "--requests-per-minute", "2")
    with server.client() as client:
        ask = lambda **headers: client.post("/v1/messages/count_tokens", json={"messages": HELLO}, headers=headers)  # noqa: E731
        assert ask(**{"x-api-key": "secret"}).status_code == 200
        assert ask(authorization="Bearer secret").status_code == 200
        wrong = ask(**{"x-api-key": "wrong"})
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
        body = {"messages": HELLO, "max_tokens": 2}
        answers = [client.post("/v1/messages", json=body, headers={"x-api-key": "secret"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[-1].json()["error"]["type"] == "rate_limit_error"
        assert answers[-1].headers["retry-after"]
