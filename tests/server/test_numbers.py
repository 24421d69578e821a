"""Every number of every request at its limits and beyond: no 5xx, and streams that run meanwhile keep their bits."""

import json
import math
import threading

import httpx
import numpy as np
import pytest

from octavo.server.protocol.audio import TranscriptionRequest, TranslationRequest
from octavo.server.protocol.batches import BatchRequest
from octavo.server.protocol.chat import ChatBatchRequest, ChatRequest
from octavo.server.protocol.completions import CompletionRequest
from octavo.server.protocol.conversations import ConversationRequest, ConversationUpdate, ItemsRequest
from octavo.server.protocol.embeddings import EmbeddingRequest
from octavo.server.protocol.messages import CountRequest, MessagesRequest
from octavo.server.protocol.model_control import (
    LoadRequest,
    ReloadRequest,
    SleepRequest,
    UnloadRequest,
    WakeRequest,
)
from octavo.server.protocol.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaNameRequest,
    OllamaPullRequest,
)
from octavo.server.protocol.pooling import ClassifyRequest, PoolingRequest
from octavo.server.protocol.responses import InputTokensRequest, ResponsesRequest
from octavo.server.protocol.scoring import RerankRequest, ScoreRequest
from octavo.server.protocol.tokens import DetokenizeRequest, TokenizeRequest
from speech.encoded import wav

from .conftest import MODEL, SPEECH, TEXT

HELLO = [{"role": "user", "content": "Hello"}]
BEAMS = {"use_beam_search": True, "best_of": 2, "temperature": 0}
TAKES_EFFECT = {  # fields that need others
    "length_penalty": BEAMS,
    "best_of": BEAMS,
    "top_logprobs": {"logprobs": True},
    "min_tokens": {"stop_token_ids": [5]},
}
CONTROL = {
    "load": LoadRequest,
    "unload": UnloadRequest,
    "sleep": SleepRequest,
    "wake": WakeRequest,
    "reload": ReloadRequest,
}
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
BATCH = {"input_file_id": "none", "endpoint": "/v1/embeddings", "completion_window": "24h"}
JSON = {  # as what each kind of request is sent
    "/v1/chat/completions": (ChatRequest, {"messages": HELLO, "max_tokens": 2}),
    "/v1/chat/completions/batch": (ChatBatchRequest, {"messages": [HELLO], "max_tokens": 2}),
    "/v1/completions": (CompletionRequest, {"prompt": "Hello", "max_tokens": 2}),
    "/v1/embeddings": (EmbeddingRequest, {"input": "Hello"}),
    "/pooling": (PoolingRequest, {"input": "Hello"}),
    "/classify": (ClassifyRequest, {"input": "Hello"}),
    **{path: (ScoreRequest, {"text_1": "Hello", "text_2": "you"}) for path in ("/score", "/v1/score")},
    **{path: (RerankRequest, {"query": "Hello", "documents": ["you"]}) for path in RERANK},
    "/v1/responses": (ResponsesRequest, {"input": "Hello", "max_output_tokens": 2}),
    "/v1/responses/input_tokens": (InputTokensRequest, {"input": "Hello"}),
    "/v1/conversations": (ConversationRequest, {}),
    "/v1/messages": (MessagesRequest, {"messages": HELLO, "max_tokens": 2}),
    "/v1/messages/count_tokens": (CountRequest, {"messages": HELLO}),
    "/api/chat": (OllamaChatRequest, {"messages": HELLO, "stream": False, "options": {"num_predict": 2}}),
    "/api/generate": (OllamaGenerateRequest, {"prompt": "Hello", "stream": False, "options": {"num_predict": 2}}),
    "/api/embed": (OllamaEmbedRequest, {"input": "Hello"}),
    "/api/embeddings": (OllamaEmbeddingsRequest, {"prompt": "Hello"}),
    "/v1/conversations/{conversation_id}": (ConversationUpdate, {"metadata": {}}),
    "/v1/conversations/{conversation_id}/items": (ItemsRequest, {"items": [{"role": "user", "content": "Hello"}]}),
    "/api/show": (OllamaNameRequest, {}),
    "/api/pull": (OllamaPullRequest, {"stream": False}),
    "/v1/batches": (BatchRequest, BATCH),
    **{f"/v1/models/{{model_id}}/{verb}": (form, {}) for verb, form in CONTROL.items()},  # of no model that there is
    "/tokenize": (TokenizeRequest, {"prompt": "Hello"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [5]}),
}
FORMS = {"/v1/audio/transcriptions": TranscriptionRequest, "/v1/audio/translations": TranslationRequest}
STREAMS = [
    {"temperature": 0},
    {"temperature": 0.9, "seed": 5, "top_p": 0.9, "top_k": 40},
    {"temperature": 1.2, "seed": 6, "presence_penalty": 0.5, "repetition_penalty": 1.1},
    {"temperature": 0.7, "seed": 7, "min_p": 0.05, "logit_bias": {"30": 2}},
]


def numbers_in(schema, defs, path=()):
    """(path, schema) of every number in a JSON schema; a path ends in [] in a list, and in {} in a dict."""
    schema = defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if schema.get("type") in ("integer", "number"):
        yield path, schema
    for each in schema.get("anyOf", []):
        yield from numbers_in(each, defs, path)
    for name, each in schema.get("properties", {}).items():
        yield from numbers_in(each, defs, (*path, name))
    if isinstance(schema.get("items"), dict):
        yield from numbers_in(schema["items"], defs, (*path, "[]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from numbers_in(schema["additionalProperties"], defs, (*path, "{}"))


def limits_of(schema):
    """The numbers to try, as JSON spells them."""
    found = ["0", "-1", "1", "-0.0", "5e-324", "-5e-324", "1e308", "-1e308", "1e400", "NaN", "1" + "0" * 400]
    whole = schema["type"] == "integer"
    for name, side in (("minimum", -1), ("exclusiveMinimum", -1), ("maximum", 1), ("exclusiveMaximum", 1)):
        if (limit := schema.get(name)) is not None:
            beyond = int(limit) + side if whole else math.nextafter(limit, side * math.inf)
            within = int(limit) - side if whole else math.nextafter(limit, -side * math.inf)
            found += [repr(int(limit) if whole else limit), repr(beyond), repr(within)]
    return found if whole else [*found, "2.2250738585072014e-308", "1e38", "3.5e38", "-3.5e38"]


def body_with(base, path, number):
    """The JSON of `base` with one number, which stands where the path says."""
    body = inner = json.loads(json.dumps(base))
    for name, following in zip(path, (*path[1:], None), strict=True):
        fresh = {"[]": [], "{}": {}}.get(following, {}) if following else "<number>"
        if name == "[]":
            inner[:] = [fresh]
        elif name == "{}":
            inner["7"] = fresh
        elif isinstance(fresh, dict):
            fresh = inner.setdefault(name, fresh)
        else:
            inner[name] = fresh
        inner = fresh
    return json.dumps(body).replace('"<number>"', number).encode()


def events_of(client, body):
    """What a stream says, without what differs from answer to answer."""
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line)["choices"] for line in lines[:-1]]


class Bystanders:
    """Four streams at a time, again and again, until the block is left; all must be as they were undisturbed."""

    def __init__(self, server, model):
        self.server, self.wrong = server, []
        common = {"messages": HELLO, "max_tokens": 40, "ignore_eos": True, "stream": True, "logprobs": True}
        self.bodies = [{**common, **options, "model": model} for options in STREAMS]
        with server.client() as client:
            self.expected = [events_of(client, body) for body in self.bodies]
        self.leave = threading.Event()
        self.threads = [threading.Thread(target=self.follow, args=(place,)) for place in range(len(STREAMS))]

    def follow(self, place):
        with self.server.client() as client:
            while True:
                try:
                    if events_of(client, self.bodies[place]) != self.expected[place]:
                        self.wrong.append(f"stream {place} has other bits")
                except (AssertionError, KeyError, httpx.HTTPError) as error:
                    self.wrong.append(f"stream {place}: {error!r}")
                if self.leave.is_set():
                    return

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.leave.set()
        for thread in self.threads:
            thread.join()
        assert not self.wrong, self.wrong[:5]


def test_every_endpoint_that_takes_a_body_is_tried(audio_server):
    with audio_server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    posts = {path for path, operations in paths.items() if "requestBody" in operations.get("post", {})}
    assert posts - {"/invocations"} == {*JSON, *FORMS, "/v1/files"}  # whose only number test_files.py tries
    schema = ChatRequest.model_json_schema()
    found = {path for path, _ in numbers_in(schema, schema["$defs"])}
    assert found >= {("temperature",), ("seed",), ("logit_bias", "{}"), ("stop_token_ids", "[]")}


@pytest.mark.parametrize("path", JSON)
def test_numbers_at_their_limits_are_no_5xx_and_disturb_nobody(server, path):
    cls, base = JSON[path]
    schema = cls.model_json_schema()
    with Bystanders(server, MODEL), server.client() as client:
        for field, limits in numbers_in(schema, schema.get("$defs", {})):
            for number in limits_of(limits):
                more = {
                    name: value for name, value in TAKES_EFFECT.get(field[0], {}).items() if name in cls.model_fields
                }
                body = body_with({**base, **more}, field, number)
                answer = client.post(path, content=body, headers={"content-type": "application/json"})
                assert answer.status_code < 500, (body, answer.text)
                if answer.status_code != 200:
                    error = answer.json()["error"]
                    assert error if isinstance(error, str) else error["message"], body


@pytest.mark.parametrize("path", FORMS)
def test_numbers_of_forms_at_their_limits_are_no_5xx_and_disturb_nobody(audio_server, path):
    tone = wav((8000 * np.sin(np.arange(8000) / 5)).astype(np.int16))
    schema = FORMS[path].model_json_schema()
    with Bystanders(audio_server, TEXT), audio_server.client() as client:
        for (field,), limits in numbers_in(schema, schema.get("$defs", {})):
            for number in limits_of(limits):
                files = {"file": ("a.wav", tone), "model": (None, SPEECH), field: (None, number)}
                answer = client.post(path, files=files)
                assert answer.status_code < 500, (field, number, answer.text)


@pytest.mark.parametrize("number", ["0", "-0.0", "5e-324", "-1", "1e308", "1e400", "inf", "nan", "9" * 400, ""])
def test_the_number_in_a_header_at_its_limits_is_no_5xx(server, number):
    body = json.dumps({"messages": HELLO, "max_tokens": 2}).encode()
    with server.client() as client:
        answer = client.post(
            "/v1/chat/completions",
            content=body,
            headers={"content-type": "application/json", "x-request-timeout": number},
        )
    assert answer.status_code in (200, 400) or (number == "5e-324" and answer.status_code == 504)
