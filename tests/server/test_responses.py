"""The Responses API: items and events, what is kept and for whom, conversations, and responses in the background."""

import json
import signal
import time

import openai
import pytest

from .conftest import MODEL
from .running import SECONDS

ASK = {"model": MODEL, "input": "Name the capital of France.", "temperature": 0, "max_output_tokens": 20}
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
LONG = {"model": MODEL, "input": "Tell me a very long story.", "max_output_tokens": 1500, "temperature": 0}


def test_a_response_is_a_message_and_tells_what_was_asked(ai):
    response = ai.responses.create(**ASK, instructions="Be brief.", metadata={"a": "b"})
    assert response.output_text == "The capital of France is Paris."
    assert (response.status, response.model, response.object) == ("completed", MODEL, "response")
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    assert (response.temperature, response.max_output_tokens) == (0, 20)
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0
    counted = ai.responses.input_tokens.count(model=MODEL, input=ASK["input"], instructions="Be brief.")
    assert counted.input_tokens == usage.input_tokens


def test_events_have_rising_numbers_and_make_the_response(ai):
    whole = ai.responses.create(**ASK)
    events = list(ai.responses.create(**ASK, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    head, deltas, tail = events[:4], events[4:-4], events[-4:]
    assert [event.type for event in head] == [
        *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"),
    ]
    assert [event.type for event in tail] == [
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        "response.completed",
    ]
    assert {event.type for event in deltas} == {"response.output_text.delta"}
    text = "".join(event.delta for event in deltas)
    assert text == tail[0].text == tail[1].part.text == tail[-1].response.output_text == whole.output_text
    item = head[2].item
    assert {event.item_id for event in [head[3], *deltas, *tail[:2]]} == {item.id}
    assert tail[2].item == tail[-1].response.output[0]
    assert tail[-1].response.usage.output_tokens == whole.usage.output_tokens
    assert len({event.response.id for event in (*head[:2], tail[-1])}) == 1


def test_the_stream_helper_of_the_client_makes_the_response(ai):
    with ai.responses.stream(**ASK) as stream:
        assert "response.output_text.delta" in [event.type for event in stream]
        assert stream.get_final_response().output_text == "The capital of France is Paris."


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_is_incomplete(ai, stream):
    response = ai.responses.create(**{**ASK, "max_output_tokens": 3}, stream=stream)
    if stream:
        *_, last = response
        assert last.type == "response.incomplete"
        response = last.response
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"


def test_log_probabilities_are_told_where_they_are_included(ai):
    asked = {**ASK, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = ai.responses.create(**asked).output[0].content[0].logprobs
    events = list(ai.responses.create(**asked, stream=True))
    deltas = [one for event in events if event.type == "response.output_text.delta" for one in event.logprobs]
    assert [one.token for one in deltas] == [one.token for one in whole][: len(deltas)]
    assert "".join(one.token for one in whole).startswith("The capital of France is Paris.")
    assert {len(one.top_logprobs) for one in whole} == {2}


def test_a_response_goes_on_from_another(ai):
    first = ai.responses.create(**ASK, instructions="Be brief.")
    second = ai.responses.create(**{**ASK, "input": "And of Italy?"}, previous_response_id=first.id)
    assert second.previous_response_id == first.id
    history = [
        {"role": "user", "content": ASK["input"]},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of Italy?"},
    ]
    same = ai.responses.create(**{**ASK, "input": history})
    assert second.usage.input_tokens == same.usage.input_tokens, "without the instructions of the first"
    assert second.output_text == same.output_text
    third = ai.responses.create(**{**ASK, "input": "And of Spain?"}, previous_response_id=second.id)
    assert third.usage.input_tokens > second.usage.total_tokens


def test_items_may_be_given_back_as_they_came_or_by_their_ids(ai):
    first = ai.responses.create(**ASK)
    question = {"role": "user", "content": ASK["input"]}
    again = {"role": "user", "content": "And of Italy?"}
    by_value = ai.responses.create(**{**ASK, "input": [question, *first.output, again]})
    reference = {"type": "item_reference", "id": first.output[0].id}
    by_id = ai.responses.create(**{**ASK, "input": [question, reference, again]})
    assert by_id.usage.input_tokens == by_value.usage.input_tokens
    assert by_id.output_text == by_value.output_text


def test_calls_and_results_are_those_of_chat_completions(ai, http):
    items = [
        {"role": "user", "content": "How is the weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "Sunny"},
    ]
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    chat = [
        items[0],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny"},
    ]
    function = {name: value for name, value in TOOL.items() if name != "type"}
    tools = [{"type": "function", "function": function}]
    expected = http.post("/tokenize", json={"messages": chat, "tools": tools}).json()["count"]
    assert ai.responses.input_tokens.count(model=MODEL, input=items, tools=[TOOL]).input_tokens == expected


def test_a_response_is_kept_and_forgotten(ai):
    response = ai.responses.create(**{**ASK, "input": [{"role": "user", "content": str(i)} for i in range(5)]})
    assert ai.responses.retrieve(response.id) == response
    items = list(ai.responses.input_items.list(response.id, order="asc", limit=2))
    assert [item.content[0].text for item in items] == ["0", "1", "2", "3", "4"], "over three pages"
    assert [item.id for item in ai.responses.input_items.list(response.id)] == [item.id for item in items[::-1]]
    ai.responses.delete(response.id)
    for ask in (ai.responses.retrieve, ai.responses.delete, ai.responses.cancel, ai.responses.input_items.list):
        with pytest.raises(openai.NotFoundError, match="not found"):
            ask(response.id)


def test_what_is_not_to_be_stored_is_not(ai):
    response = ai.responses.create(**ASK, store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        ai.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as error:
        ai.responses.create(**ASK, previous_response_id=response.id)
    assert (error.value.param, error.value.code) == ("previous_response_id", "previous_response_not_found")


def test_a_conversation_collects_items(ai):
    conversation = ai.conversations.create(items=[{"role": "user", "content": "I am Ann."}], metadata={"a": "b"})
    response = ai.responses.create(**ASK, conversation=conversation.id)
    assert response.conversation.id == conversation.id
    items = list(ai.conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in items] == ["user", "user", "assistant"]
    assert items[-1].id == response.output[0].id
    more = ai.responses.create(**{**ASK, "input": "And of Italy?"}, conversation={"id": conversation.id})
    assert more.usage.input_tokens > response.usage.total_tokens
    ai.conversations.items.delete(items[0].id, conversation_id=conversation.id)
    (added,) = ai.conversations.items.create(conversation.id, items=[{"role": "user", "content": "Bye"}]).data
    found = ai.conversations.items.retrieve(added.id, conversation_id=conversation.id)
    assert found.content[0].text == "Bye"
    assert len(list(ai.conversations.items.list(conversation.id))) == 5
    assert ai.conversations.update(conversation.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert ai.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        ai.conversations.retrieve(conversation.id)


def test_a_response_in_the_background_goes_on_without_its_client(ai):
    response = ai.responses.create(**ASK, background=True)
    assert (response.status, response.output) == ("queued", [])
    end = time.monotonic() + SECONDS
    while (found := ai.responses.retrieve(response.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert (found.status, found.output_text) == ("completed", "The capital of France is Paris.")
    with pytest.raises(openai.BadRequestError, match="is completed and can't be cancelled"):
        ai.responses.cancel(response.id)


def test_a_response_in_the_background_can_be_cancelled(ai, server):
    response = ai.responses.create(**LONG, background=True)
    with pytest.raises(openai.BadRequestError, match="is still"):
        ai.responses.create(**ASK, previous_response_id=response.id)
    assert ai.responses.cancel(response.id).status == "cancelled"
    assert ai.responses.retrieve(response.id).status == "cancelled"
    assert ai.responses.cancel(response.id).status == "cancelled", "again"
    server.settle()


def test_a_stream_in_the_background_can_be_followed_from_any_event(ai):
    stream = ai.responses.create(**ASK, background=True, stream=True)
    first = next(iter(stream))
    stream.close()
    rest = list(ai.responses.retrieve(first.response.id, stream=True, starting_after=first.sequence_number))
    assert [event.sequence_number for event in rest] == list(range(1, len(rest) + 1))
    assert [event.type for event in rest[:2]] == ["response.queued", "response.in_progress"]
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == "The capital of France is Paris."
    with pytest.raises(openai.BadRequestError, match="only of a response that was made with background"):
        ai.responses.retrieve(ai.responses.create(**ASK).id, stream=True)


def test_a_client_that_leaves_a_stream_ends_it(ai, server):
    stream = ai.responses.create(**LONG, stream=True)
    first = next(iter(stream))
    stream.close()
    server.settle()
    with pytest.raises(openai.NotFoundError):
        ai.responses.retrieve(first.response.id)


def test_one_key_s_responses_are_not_there_for_another(start, tiny_model):
    server = start(tiny_model, "--api-key", "one", "--api-key", "two")
    url = f"{server.url}/v1"
    with openai.OpenAI(base_url=url, api_key="one") as one, openai.OpenAI(base_url=url, api_key="two") as two:
        model = one.models.list().data[0].id
        ask = {"model": model, "input": "Hello", "max_output_tokens": 2}
        response, conversation = one.responses.create(**ask), one.conversations.create()
        running = one.responses.create(**{**ask, "max_output_tokens": 2000}, background=True)
        for id in (response.id, running.id):
            for way in (two.responses.retrieve, two.responses.delete, two.responses.cancel):
                with pytest.raises(openai.NotFoundError):
                    way(id)
        with pytest.raises(openai.BadRequestError, match="not found"):
            two.responses.create(**ask, previous_response_id=response.id)
        with pytest.raises(openai.NotFoundError):
            two.responses.create(**ask, conversation=conversation.id)
        with pytest.raises(openai.NotFoundError):
            two.responses.create(**{**ask, "input": [{"type": "item_reference", "id": response.output[0].id}]})
        one.responses.delete(running.id)
        assert one.responses.retrieve(response.id).id == response.id


def test_the_least_recently_used_make_room(start, tiny_model):
    server = start(tiny_model, "--max-stored-responses", "3")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as ai:
        ask = {"model": ai.models.list().data[0].id, "input": "Hello", "max_output_tokens": 2}
        ids = [ai.responses.create(**ask).id for _ in range(3)]
        ai.responses.retrieve(ids[0])
        ids.append(ai.responses.create(**ask).id)
        there = []
        for id in ids:
            try:
                there.append(ai.responses.retrieve(id).id)
            except openai.NotFoundError:
                continue
        assert there == [ids[0], ids[2], ids[3]]


def test_a_file_keeps_responses_through_kill_9(start, real_model, tmp_path):
    store = tmp_path / "responses.db"
    server = start(real_model, "--response-store", store)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as ai:
        ask = {"model": ai.models.list().data[0].id, "input": "Hello", "max_output_tokens": 4}
        response, conversation = ai.responses.create(**ask), ai.conversations.create(metadata={"a": "b"})
        running = ai.responses.create(**{**LONG, "model": ask["model"]}, background=True)
    server.stop(signal.SIGKILL)
    server = start(real_model, "--response-store", store)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as ai:
        assert ai.responses.retrieve(response.id) == response
        assert ai.conversations.retrieve(conversation.id) == conversation
        assert ai.responses.create(**ask, previous_response_id=response.id).previous_response_id == response.id
        failed = ai.responses.retrieve(running.id)
        assert (failed.status, failed.error.message) == ("failed", "the server ended before this was finished")
    other = start(real_model, "--response-store", store, wait=None)
    assert other.process.wait(SECONDS) == 2, "a file is one server's"
    assert "--response-store" in other.read_log()
    assert server.stop() == 0


def test_a_server_that_ends_writes_down_what_became_of_the_background(start, real_model, tmp_path):
    store = tmp_path / "responses.db"
    server = start(real_model, "--response-store", store, "--shutdown-timeout", "0")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as ai:
        running = ai.responses.create(**{**LONG, "model": ai.models.list().data[0].id}, background=True)
    assert server.stop() == 0
    server = start(real_model, "--response-store", store)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as ai:
        failed = ai.responses.retrieve(running.id)
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert "shut down" in failed.error.message


def test_a_file_that_is_no_store_is_refused_at_start(start, tiny_model, tmp_path):
    (tmp_path / "responses.db").write_text("something else " * 100)
    server = start(tiny_model, "--response-store", tmp_path / "responses.db", wait=None)
    assert server.process.wait(SECONDS) == 2
    assert "can't be used to store responses: " in server.read_log()


def message(*parts):
    return [{"role": "user", "content": list(parts)}]


WRONG = {
    "an image": (
        {"input": message({"type": "input_image", "image_url": "data:"})},
        'input[0].content[0]: must have a type of input_text or output_text, got "input_image"',
    ),
    "an item of the server's tools": (
        {"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]},
        "input[0]: must have a type of message, function_call, function_call_output, reasoning or item_reference",
    ),
    "another tool": ({"tools": [{"type": "web_search"}]}, 'tools[0]: must have a type of function, got "web_search"'),
    "equal names of tools": ({"tools": [TOOL, TOOL]}, "tools: entries 0 and 1 have the same name"),
    "a tool that is not there": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}},
        "tool_choice: there is no tool 'other'",
    ),
    "a result without a call": (
        {"input": [{"type": "function_call_output", "call_id": "call_1", "output": "Sunny"}]},
        "input[0].call_id",
    ),
    "both histories": ({"previous_response_id": "a", "conversation": "b"}, "conversation: not together"),
    "no input": ({"input": None}, "input: this field is required"),
    "truncation": ({"truncation": "auto"}, "truncation: must be 'disabled', got \"auto\""),
    "background without a store": ({"background": True, "store": False}, "background: only with store=true"),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt is not supported"),
    "an unknown field": ({"n": 2}, "n is not known here"),
    "a limit": ({"max_output_tokens": 0}, "max_output_tokens: must be at least 1, got 0"),
    "encrypted reasoning": (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        "input[0].encrypted_content is not supported",
    ),
    "a long input": ({"input": "a " * 5000}, "This model's maximum context length is 2048 tokens"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_by_its_path(http, what, stream):
    fields, message = WRONG[what]
    answer = http.post("/v1/responses", json={**ASK, "stream": stream, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].startswith(message), error
    named = message.split(" ")[0].rstrip(":")
    if named != "This":
        assert error["param"] == "".join(part.partition("]")[2] if "]" in part else part for part in named.split("["))


def test_items_that_are_not_there_are_not_found(http):
    body = {**ASK, "input": [{"type": "item_reference", "id": "msg_none"}]}
    answer = http.post("/v1/responses", content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "input.id")
