"""What a model thinks, in the APIs for agents: a template begins its thinking, and a budget ends it."""

import json

import pytest

from .test_tools import thinker  # noqa: F401

QUESTION = "Tell me a long story about Paris."
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def http(thinker):  # noqa: F811
    with thinker.client() as client:
        yield client


def events_of(http, path, body):
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        return [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]


BUDGET = {
    "messages": MESSAGES,
    "max_tokens": 30,
    "temperature": 0,
    "thinking": {"type": "enabled", "budget_tokens": 5},
}


def test_thinking_is_a_block_before_the_text(http):
    thinking, text = http.post("/v1/messages", json=BUDGET).json()["content"]
    assert (thinking["type"], text["type"]) == ("thinking", "text")
    assert thinking["thinking"]
    assert thinking["signature"]
    events = events_of(http, "/v1/messages", BUDGET)
    blocks = [[event for event in events if event.get("index") == index] for index in (0, 1)]
    kinds = [[event["delta"]["type"] for event in block if "delta" in event] for block in blocks]
    assert set(kinds[0][:-1]) == {"thinking_delta"}
    assert kinds[0][-1] == "signature_delta"
    assert set(kinds[1]) == {"text_delta"}
    assert "".join(event["delta"].get("thinking", "") for event in blocks[0][1:-1]) == thinking["thinking"]
    assert "".join(event["delta"]["text"] for event in blocks[1][1:-1]) == text["text"]
    for block, kind in zip(blocks, ("thinking", "text"), strict=True):
        assert (block[0]["type"], block[0]["content_block"]["type"]) == ("content_block_start", kind)
        assert block[-1]["type"] == "content_block_stop"


def test_thinking_is_given_back_and_may_be_hidden(http):
    content = http.post("/v1/messages", json=BUDGET).json()["content"]
    again = [*MESSAGES, {"role": "assistant", "content": content}, {"role": "user", "content": "And of Italy?"}]
    assert http.post("/v1/messages", json={**BUDGET, "messages": again}).status_code == 200
    hidden = {**BUDGET, "thinking": {**BUDGET["thinking"], "display": "omitted"}}
    block, text = http.post("/v1/messages", json=hidden).json()["content"]
    assert (block["type"], block["thinking"]) == ("thinking", "")
    assert text == content[1]


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_a_model_thinks_only_if_a_message_asks_for_it(http, thinking):
    body = {**BUDGET, "thinking": thinking}
    assert [block["type"] for block in http.post("/v1/messages", json=body).json()["content"]] == ["text"]


def test_thinking_is_an_item_of_a_response(http):
    body = {"input": QUESTION, "max_output_tokens": 12, "temperature": 0}
    response = http.post("/v1/responses", json=body).json()
    (item,) = response["output"]
    assert (item["type"], item["status"], item["summary"]) == ("reasoning", "incomplete", [])
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 12
    events = events_of(http, "/v1/responses", body)
    deltas = [event["delta"] for event in events if event["type"] == "response.reasoning_text.delta"]
    (done,) = [event["text"] for event in events if event["type"] == "response.reasoning_text.done"]
    assert "".join(deltas) == done == item["content"][0]["text"]
    assert events[-1]["type"] == "response.incomplete"
    more = {**body, "previous_response_id": response["id"]}
    assert http.post("/v1/responses", json=more).json()["usage"]["input_tokens"] > response["usage"]["total_tokens"]
    off = {**body, "reasoning": {"effort": "none"}}
    assert [each["type"] for each in http.post("/v1/responses", json=off).json()["output"]] == ["message"]


def test_ollama_s_messages_have_thinking_beside_their_content(http):
    body = {"messages": MESSAGES, "options": {"num_predict": 12, "temperature": 0}, "stream": False}
    message = http.post("/api/chat", json={**body, "think": True}).json()["message"]
    assert message["thinking"]
    assert message["content"] == ""
    message = http.post("/api/chat", json={**body, "think": False}).json()["message"]
    assert message["content"]
    assert "thinking" not in message
    prompt = {"prompt": QUESTION, "options": body["options"], "think": True}
    lines = [json.loads(line) for line in http.post("/api/generate", json=prompt).text.splitlines()]
    assert "".join(line.get("thinking", "") for line in lines)
    assert "thinking" in http.post("/api/show", json={}).json()["capabilities"]
