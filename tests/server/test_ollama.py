"""Ollama's API: lines of JSON, its options, histories of calls by name, and errors in its shape."""

import json

import numpy as np
import pytest

from .conftest import MODEL

HELLO = [{"role": "user", "content": "Name the capital of France."}]
GREEDY = {"temperature": 0, "num_predict": 20}
PARIS = "The capital of France is Paris."
FUNCTION = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def post(http, path, **fields):
    return http.post(f"/api/{path}", json={"model": MODEL, **fields})


def lines_of(http, path, **fields):
    with http.stream("POST", f"/api/{path}", json={"model": MODEL, **fields}) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.iter_lines()]


def counted(http, **body):
    """The tokens of a prompt, as Ollama's API tells them."""
    return post(http, "chat", stream=False, options={"num_predict": 1}, **body).json()["prompt_eval_count"]


def test_a_chat_is_answered(http):
    answer = post(http, "chat", messages=HELLO, options=GREEDY, stream=False).json()
    assert answer["message"] == {"role": "assistant", "content": PARIS}
    assert (answer["model"], answer["done"], answer["done_reason"]) == (MODEL, True, "stop")
    assert answer["eval_count"] == 8
    times = [answer[f"{name}_duration"] for name in ("prompt_eval", "eval", "total")]
    assert all(type(time) is int and time > 0 for time in times)
    assert times[0] + times[1] == pytest.approx(times[2], abs=2)


def test_it_is_a_stream_unless_it_says_no(http):
    whole = post(http, "chat", messages=HELLO, options=GREEDY, stream=False).json()
    *lines, last = lines_of(http, "chat", messages=HELLO, options=GREEDY)
    assert len(lines) > 3
    assert {line["done"] for line in lines} == {False}
    assert "".join(line["message"]["content"] for line in lines) == PARIS
    assert last["message"] == {"role": "assistant", "content": ""}
    same = ("done", "done_reason", "prompt_eval_count", "eval_count")
    assert {name: last[name] for name in same} == {name: whole[name] for name in same}


@pytest.mark.parametrize("path", ["chat", "generate"])
def test_log_probabilities_are_told_token_by_token(http, path):
    asked = {"messages": HELLO} if path == "chat" else {"prompt": HELLO[0]["content"]}
    asked |= {"options": GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = post(http, path, stream=False, **asked).json()["logprobs"]
    streamed = [one for line in lines_of(http, path, **asked) for one in line.get("logprobs", ())]
    assert [one["token"] for one in streamed] == [one["token"] for one in whole][: len(streamed)]
    assert "".join(one["token"] for one in whole).startswith(PARIS)
    assert {len(one["top_logprobs"]) for one in whole} == {2}


def test_a_prompt_is_a_message_of_the_user(http):
    asked = {"prompt": HELLO[0]["content"], "system": "Be brief.", "options": GREEDY}
    answer = post(http, "generate", stream=False, **asked).json()
    assert answer["response"] == PARIS
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert answer["prompt_eval_count"] == counted(http, messages=messages)
    *lines, last = lines_of(http, "generate", **asked)
    assert "".join(line["response"] for line in lines) == PARIS
    assert (last["response"], last["done"]) == ("", True)


def test_a_raw_prompt_is_continued_as_it_is(http):
    completion = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}
    expected = http.post("/v1/completions", json=completion).json()
    asked = {"prompt": "Once upon a time", "raw": True, "options": GREEDY}
    answer = post(http, "generate", stream=False, **asked).json()
    assert answer["response"] == expected["choices"][0]["text"]
    assert answer["done_reason"] == "length"
    assert answer["prompt_eval_count"] == expected["usage"]["prompt_tokens"]
    assert "".join(line["response"] for line in lines_of(http, "generate", **asked)) == answer["response"]


OPTIONS = {
    "temperature": (0.7, "temperature"),
    "top_k": (5, "top_k"),
    "top_p": (0.5, "top_p"),
    "min_p": (0.2, "min_p"),
    "repeat_penalty": (1.5, "repetition_penalty"),
    "presence_penalty": (1.5, "presence_penalty"),
    "frequency_penalty": (1.5, "frequency_penalty"),
    "stop": ([" of", "!"], "stop"),
    "num_predict": (3, "max_tokens"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_that_of_chat_completions(http, option):
    value, name = OPTIONS[option]
    base = {"temperature": 1.2, "seed": 5}
    chat = {"model": MODEL, "messages": HELLO, "max_tokens": 30, **base, name: value}
    expected = http.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
    options = {"num_predict": 30, **base, option: value}
    answer = post(http, "chat", messages=HELLO, options=options, stream=False).json()
    assert answer["message"]["content"] == expected


def test_calls_are_known_by_the_names_of_tools(http):
    history = [
        {"role": "user", "content": "How is the weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "get_weather", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "tool_name": "get_weather", "content": "Sunny"},
    ]
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"a": 1}'}}
    chat = [
        history[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny"},
    ]
    tools = [{"type": "function", "function": FUNCTION}]
    expected = http.post("/tokenize", json={"messages": chat, "tools": tools}).json()["count"]
    assert counted(http, messages=history, tools=tools) == expected


@pytest.mark.parametrize(("path", "empty"), [("chat", {"messages": []}), ("chat", {}), ("generate", {})])
def test_without_a_question_the_model_is_only_to_be_there(http, path, empty):
    answer = post(http, path, keep_alive="5m", stream=False, **empty).json()
    assert (answer["done"], answer["done_reason"]) == (True, "load")


def test_models_are_listed_and_shown(http):
    (model,) = http.get("/api/tags").json()["models"]
    (running,) = http.get("/api/ps").json()["models"]
    assert model["name"] == model["model"] == running["name"] == MODEL
    assert model["size"] > 1 << 20
    assert len(model["digest"]) == 64
    assert running["context_length"] == 2048
    for body in ({"model": MODEL}, {"name": MODEL}, {"model": f"{MODEL}:latest"}):
        shown = http.post("/api/show", json=body).json()
        assert "<|im_start|>" in shown["template"]
        assert shown["model_info"][f"{shown['model_info']['general.architecture']}.context_length"] == 2048
        assert shown["capabilities"] == ["completion", "tools"]
    assert http.get("/api/version").json()["version"] == http.get("/version").json()["version"]


def test_a_model_that_is_served_is_pulled_at_once(http):
    assert post(http, "pull", stream=False).json() == {"status": "success"}
    assert lines_of(http, "pull")[-1] == {"status": "success"}
    answer = http.post("/api/pull", json={"model": "llama3"})
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("The model 'llama3' does not exist.")


def test_texts_are_embedded(pooling_server):
    with pooling_server.client() as http:
        texts = ["some words", "others"]
        expected = http.post("/v1/embeddings", json={"model": "words", "input": texts}).json()
        found = http.post("/api/embed", json={"model": "words", "input": texts}).json()
        np.testing.assert_array_equal(found["embeddings"], [one["embedding"] for one in expected["data"]])
        assert found["prompt_eval_count"] == expected["usage"]["prompt_tokens"]
        old = http.post("/api/embeddings", json={"model": "words", "prompt": "others"}).json()
        np.testing.assert_allclose(old["embedding"], found["embeddings"][1], atol=1e-6)
        short = http.post("/api/embed", json={"model": "words", "input": texts, "dimensions": 16}).json()
        assert {len(one) for one in short["embeddings"]} == {16}
        long = {"model": "words", "input": "some words " * 2000}
        assert http.post("/api/embed", json=long).status_code == 200
        refused = http.post("/api/embed", json={**long, "truncate": False})
        assert refused.status_code == 400
        assert "tokens" in refused.json()["error"]
        answer = http.post("/api/embed", json={"model": "chat", "input": "a"})
        assert "can't embed texts" in answer.json()["error"]


@pytest.mark.parametrize(("headers", "status"), [({}, 200), ({"origin": "https://page.example"}, 415)])
def test_only_pages_have_to_say_that_a_body_is_json(http, headers, status):
    body = json.dumps({"model": MODEL}).encode()
    assert http.post("/api/show", content=body, headers=headers).status_code == status


WRONG = {
    "an unknown option": ({"options": {"warmth": 1}}, "options.warmth is not known here"),
    "an option that is not there": ({"options": {"mirostat": 2}}, "options.mirostat is not supported"),
    "a penalty of some tokens": (
        {"options": {"repeat_penalty": 1.2, "repeat_last_n": 64}},
        "options.repeat_last_n: 64 is not supported with a repeat_penalty",
    ),
    "a temperature": ({"options": {"temperature": -1}}, "options.temperature: must be at least 0, got -1"),
    "a limit": ({"options": {"num_predict": 0}}, "options.num_predict: must be at least 1, or -1"),
    "an image": (
        {"messages": [{"role": "user", "content": "a", "images": ["aGk="]}]},
        "messages[0].images is not supported: contents are text",
    ),
    "a result without a call": (
        {"messages": [*HELLO, {"role": "tool", "tool_name": "f", "content": "a"}]},
        "messages[1]: no call of 'f' waits for a result",
    ),
    "thinking of a model that does not": ({"think": True}, "think: the model's chat template has no word for it"),
    "equal names of tools": (
        {"tools": [{"type": "function", "function": FUNCTION}] * 2},
        "tools: entries 0 and 1 have the same name",
    ),
    "a role": ({"messages": [{"role": "other", "content": "a"}]}, "messages[0].role: must be"),
    "an unknown field": ({"n": 2}, "n is not known here"),
    "a long prompt": ({"messages": [{"role": "user", "content": "a " * 5000}]}, "This model's maximum context length"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_by_its_path_in_one_string(http, what):
    fields, message = WRONG[what]
    answer = post(http, "chat", **{"messages": HELLO, **fields})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"].startswith(message), answer.json()


GENERATE_WRONG = {
    "template": ({"template": "{{ .Prompt }}"}, "template of a request is refused"),
    "context": ({"context": [1, 2]}, "context is not supported; send the conversation to /api/chat"),
    "images": ({"images": ["aGk="]}, "images is not supported"),
    "raw with system": ({"raw": True, "system": "Be brief."}, "system: not with raw"),
}


@pytest.mark.parametrize("what", GENERATE_WRONG)
def test_what_can_t_be_generated_is_refused_by_name(http, what):
    fields, message = GENERATE_WRONG[what]
    answer = post(http, "generate", prompt="Hello", **fields)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message), answer.json()


@pytest.mark.parametrize(("method", "path"), [("DELETE", "delete"), ("POST", "push"), ("POST", "create")])
def test_models_can_t_be_made_or_removed(http, method, path):
    answer = http.request(method, f"/api/{path}", json={"model": MODEL})
    assert answer.status_code == 404
    assert answer.json()["error"].startswith(f"There is no /api/{path}")
