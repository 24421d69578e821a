"""The OpenAPI schema is true: schemathesis makes requests from it, and no answer is a 5xx or undeclared."""

import json
import re

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from speech.encoded import wav

from .conftest import MODEL, SPEECH
from .running import SECONDS

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)

QUIET = wav(np.zeros(8000, np.int16))
OPERATIONS = [
    *(("POST", path) for path in ("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions")),
    *(
        ("POST", path)
        for path in ("/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank")
    ),
    *(("GET", path) for path in ("/v1/files", "/v1/files/{file_id}", "/v1/files/{file_id}/content")),
    *(("DELETE", "/v1/files/{file_id}"), ("POST", "/v1/batches"), ("GET", "/v1/batches")),
    *(("GET", "/v1/batches/{batch_id}"), ("POST", "/v1/batches/{batch_id}/cancel")),
    *(("POST", path) for path in ("/v1/embeddings", "/tokenize", "/detokenize", "/ping", "/invocations")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{model_id}", "/health", "/livez", "/readyz", "/ping")),
    *(("POST", f"/v1/models/{{model_id}}/{verb}") for verb in ("load", "unload", "sleep", "wake", "reload")),
    *(("POST", "/sleep"), ("POST", "/wake_up"), ("GET", "/is_sleeping")),
    *(("POST", path) for path in ("/v1/responses", "/v1/responses/input_tokens", "/v1/conversations")),
    *(("POST", f"/v1/conversations/{{conversation_id}}{path}") for path in ("", "/items")),
    *(("GET", f"/v1/conversations/{{conversation_id}}{path}") for path in ("", "/items", "/items/{item_id}")),
    *(("GET", f"/v1/responses/{{response_id}}{path}") for path in ("", "/input_items")),
    *(("DELETE", f"/v1/{path}") for path in ("responses/{response_id}", "conversations/{conversation_id}")),
    ("POST", "/v1/responses/{response_id}/cancel"),
    *(("POST", path) for path in ("/v1/messages", "/v1/messages/count_tokens")),
    *(("POST", f"/api/{path}") for path in ("chat", "generate", "embed", "embeddings", "show", "pull")),
    *(("GET", f"/api/{path}") for path in ("tags", "ps", "version")),
    *(("GET", path) for path in ("/version", "/load", "/metrics", "/tokenizer_info", "/engine/stats")),
]

LIMITS = {  # the field that keeps answers short, by the path's beginning
    "/v1/chat": ("max_tokens", 8),
    "/v1/completions": ("max_tokens", 8),
    "/v1/messages": ("max_tokens", 8),
    "/invocations": ("max_tokens", 8),
    "/v1/responses": ("max_output_tokens", 8),
    "/api/chat": ("options", {"num_predict": 8}),
    "/api/generate": ("options", {"num_predict": 8}),
}


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_answer_is_a_5xx_or_undeclared(server, method, path):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")

    cases = strategies.one_of(*(schema[path][method].as_strategy(generation_mode=mode) for mode in GenerationMode))

    @given(cases, strategies.integers(0, 4), strategies.randoms())
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case, most, random):
        if isinstance(case.body, dict):
            case.body = thinned(case.body, most, random)
            if (limit := next((each for each in LIMITS if path.startswith(each)), None)) is not None:
                case.body.setdefault(*LIMITS[limit])
        call(server, case)

    check()


FORM = ("language", "prompt", "response_format", "temperature", "stream", "seed", "timestamp_granularities", "include")


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
def test_no_answer_to_a_form_is_a_5xx_or_undeclared(audio_server, path):
    """Some have a file with audio in it, some a field of any text; of files schemathesis makes good forms only."""
    schema = schemathesis.openapi.from_url(f"{audio_server.url}/openapi.json")
    cases = schema[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE)
    wrong = strategies.dictionaries(strategies.sampled_from((*FORM, "other")), strategies.text(), max_size=1)

    @given(cases, strategies.booleans(), wrong, strategies.integers(0, 3), strategies.randoms())
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case, is_audio, wrong, most, random):
        names = sorted(set(case.body) - {"file"})
        kept = {"file", *random.sample(names, min(most, len(names)))}
        case.body = {name: value for name, value in case.body.items() if name in kept} | wrong
        if is_audio:
            case.body["file"] = QUIET
        if "model" in case.body:
            case.body["model"] = SPEECH
        call(audio_server, case)

    check()


def test_no_answer_to_a_file_is_a_5xx_or_undeclared(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    cases = schema["/v1/files"]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE)
    fields = ("purpose", "expires_after", "expires_after[seconds]", "expires_after[]", "expires_after[", "other")
    wrong = strategies.dictionaries(strategies.sampled_from(fields), strategies.text(), max_size=2)

    @given(cases, wrong)
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case, wrong):
        case.body |= wrong
        call(server, case)

    check()


def call(server, case):
    """Sends a case and checks its answer; of a 5xx it says what it was, and what the log says of it."""
    begin = len(server.read_log())
    answer = case.call(timeout=SECONDS)
    assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}\n{server.read_log()[begin:]}"
    case.validate_response(answer, checks=CHECKS)


def thinned(body, most, random):
    """Up to `most` of the optional fields, so that not all requests are wrong; and no long answers."""
    needed = {"prompt", "messages", "tokens", "input", "text_1", "text_2", "query", "documents"} & set(body)
    optional = random.sample(sorted(set(body) - needed), min(most, len(set(body) - needed)))
    thin = {name: value for name, value in body.items() if name in needed or name in optional}
    if isinstance(thin.get("model"), str):
        thin["model"] = MODEL
    for name, limit in (("max_tokens", 8), ("max_output_tokens", 8), ("n", 4), ("best_of", 4)):
        if type(thin.get(name)) is int:
            thin[name] = min(thin[name], limit)
    if isinstance(thin.get("options"), dict):
        thin["options"]["num_predict"] = 8
    return thin


def test_the_schema_has_every_endpoint_with_its_fields(http):
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model_id}"),
        *("/v1/chat/completions/batch", "/tokenizer_info"),
        *(f"/v1/models/{{model_id}}/{verb}" for verb in ("load", "unload", "sleep", "wake", "reload")),
        *("/sleep", "/wake_up", "/is_sleeping"),
        *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/embeddings"),
        *("/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"),
        *("/v1/responses", "/v1/responses/input_tokens", "/v1/responses/{response_id}"),
        *("/v1/responses/{response_id}/cancel", "/v1/responses/{response_id}/input_items"),
        *("/v1/conversations", "/v1/conversations/{conversation_id}", "/v1/conversations/{conversation_id}/items"),
        "/v1/conversations/{conversation_id}/items/{item_id}",
        *("/v1/messages", "/v1/messages/count_tokens", "/api/chat", "/api/generate", "/api/embed", "/api/embeddings"),
        *("/api/tags", "/api/ps", "/api/show", "/api/pull", "/api/version"),
        *("/v1/files", "/v1/files/{file_id}", "/v1/files/{file_id}/content"),
        *("/v1/batches", "/v1/batches/{batch_id}", "/v1/batches/{batch_id}/cancel"),
        "/invocations",
        *("/tokenize", "/detokenize", "/health", "/livez", "/readyz", "/ping", "/version", "/load", "/metrics"),
        *("/engine/stats", "/engine/events"),
    }
    schemas = document["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest"):
        fields = schemas[name]["properties"]
        assert schemas[name]["additionalProperties"] is False
        for field in ("model", "temperature", "top_k", "min_p", "stream_options", "logprobs", "prompt_logprobs"):
            assert field in fields
    assert schemas["FunctionTool"]["properties"]["function"] == {"$ref": "#/components/schemas/Function"}


def test_the_schema_of_a_form_has_its_fields_and_every_answer(http):
    document = http.get("/openapi.json").json()
    operation = document["paths"]["/v1/audio/transcriptions"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data"}
    assert set(operation["responses"]["200"]["content"]) == {
        *("application/json", "text/plain", "text/vtt", "application/x-subrip", "text/event-stream")
    }
    form = document["components"]["schemas"]["TranscriptionRequest"]
    assert form["required"] == ["file"]
    assert form["additionalProperties"] is False
    assert form["properties"]["file"]["format"] == "binary"
    assert form["properties"]["temperature"]["maximum"] == 1
    for name in ("timestamp_granularities", "timestamp_granularities[]"):
        assert form["properties"][name]["items"]["enum"] == ["segment", "word"]
    assert form["properties"]["chunking_strategy"]["enum"] == ["auto"]
    page = http.get("/docs").text
    assert "multipart/form-data" in page
    assert "timestamp_granularities[]" in page


def test_tool_calls_are_described_as_they_are_sent_and_as_they_are_taken(http):
    """Two models of one name: an answer's has its id and type always, a request's need not."""
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    answered = schemas["ChatMessage"]["properties"]["tool_calls"]
    (name,) = set(re.findall(r"schemas/([\w-]+)", json.dumps(answered)))
    assert {"id", "type", "function"} <= set(schemas[name]["required"])
