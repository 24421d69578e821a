"""POST /invocations answers as the endpoint that the body is meant for."""

import json

import pytest

from .conftest import MODEL, SPEECH

HELLO = [{"role": "user", "content": "Hello"}]
SAME = {"temperature": 0, "max_tokens": 4}
AUDIO = {"content-type": "audio/wav"}


def without_ids(answer):
    return {name: value for name, value in answer.items() if name not in ("id", "created")}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", {"messages": HELLO, **SAME}), ("/v1/completions", {"prompt": "Hello", **SAME})],
)
def test_text_is_answered_as_by_its_endpoint(http, path, body):
    asked, usual = http.post("/invocations", json=body), http.post(path, json=body)
    assert (asked.status_code, usual.status_code) == (200, 200)
    assert asked.json()["choices"] == usual.json()["choices"]
    assert asked.json()["object"] == usual.json()["object"]


def test_a_stream_is_a_stream(http):
    body = {"messages": HELLO, "stream": True, **SAME}
    with http.stream("POST", "/invocations", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "chat.completion.chunk"
    assert lines[-1] == "data: [DONE]"


def test_a_client_that_leaves_ends_its_request(server, http):
    body = {"prompt": "Hello", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/invocations", json=body) as answer:
        pieces = answer.iter_raw()
        next(pieces)
    server.settle()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "words", "input": ["a river", "a stone"]}),
        ("/classify", {"model": "labels", "input": "a river"}),
        ("/pooling", {"model": "words", "input": "a river", "task": "token_embed"}),
        ("/rerank", {"model": "pairs", "query": "a river", "documents": ["a stone", "a song"]}),
        ("/score", {"model": "pairs", "text_1": "a river", "text_2": "a stone"}),
    ],
)
def test_vectors_and_scores_are_answered_as_by_their_endpoints(pooling_server, path, body):
    with pooling_server.client() as client:
        asked, usual = client.post("/invocations", json=body), client.post(path, json=body)
    assert asked.status_code == 200, asked.text
    assert without_ids(asked.json()) == without_ids(usual.json())


def test_audio_may_be_a_form_or_the_whole_body(audio_server, audio_path, spoken_text):
    content = audio_path.read_bytes()
    with audio_server.client() as client:
        form = client.post("/invocations", files={"file": content}, data={"model": SPEECH})
        whole = client.post("/invocations", content=content, headers=AUDIO)
        attributes = {"x-amzn-sagemaker-custom-attributes": f"model={SPEECH}, response_format=text,language=en"}
        text = client.post("/invocations", content=content, headers={**AUDIO, **attributes})
    assert form.json()["text"] == whole.json()["text"] == text.text.strip()
    assert text.headers["content-type"].startswith("text/plain")
    assert spoken_text.split()[0] in text.text


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, None, "messages, prompt"),
        ({"inputs": "Hello"}, None, "'inputs' is 'prompt'"),
        ({"messages": HELLO, "temperature": -1}, "temperature", "temperature"),
        ({"prompt": "Hello", "model": "other"}, "model", "does not exist"),
        ({"input": "Hello", "model": MODEL}, "model", "can't embed texts"),
        ({"input": "Hello", "model": 5}, "model", "model"),
        ({"messages": HELLO, "prompt": "Hello"}, "prompt", "prompt"),
    ],
)
def test_what_is_wrong_is_said_as_elsewhere(http, body, param, said):
    answer = http.post("/invocations", json=body)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "text/csv"}, b"a,b", 415),
        ({"content-type": "application/json"}, b"[1]", 400),
        ({"content-type": "application/json"}, b'{"prompt": "a", "prompt": "b"}', 400),
        ({"content-type": "application/json", "content-encoding": "gzip"}, b"{}", 415),
        ({**AUDIO, "x-amzn-sagemaker-custom-attributes": "language"}, b"RIFF", 400),
        ({**AUDIO, "x-amzn-sagemaker-custom-attributes": "other=1"}, b"RIFF", 400),
        (AUDIO, b"no audio", 400),
        (AUDIO, b"", 400),
    ],
)
def test_a_body_that_is_nothing_is_refused(audio_server, headers, content, status):
    with audio_server.client() as client:
        answer = client.post("/invocations", content=content, headers=headers)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})


def test_keys_guard_it(start, tiny_model):
    server = start(tiny_model, "--api-key", "sk-secret")
    with server.client() as client:
        assert client.post("/invocations", json={"prompt": "Hello"}).status_code == 401
        assert client.get("/ping").status_code == 200
