"""The OpenAPI schema is true: schemathesis makes requests from it, and no answer is a 5xx or undeclared."""

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

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


OPERATIONS = [
    *(("POST", path) for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/ping")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{model_id}", "/health", "/livez", "/readyz", "/ping")),
    *(("GET", path) for path in ("/version", "/load", "/metrics")),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_answer_is_a_5xx_or_undeclared(server, method, path):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")

    @given(case=strategies.one_of(*(schema[path][method].as_strategy(generation_mode=mode) for mode in GenerationMode)))
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case):
        shorten(case.body)
        case.call_and_validate(checks=CHECKS)

    check()


def shorten(body):
    """Long answers are not what is tested."""
    if isinstance(body, dict):
        for name, most in (("max_tokens", 8), ("max_completion_tokens", 8), ("n", 4)):
            if type(body.get(name, most)) is int:
                body[name] = min(body.get(name, most), most)


def test_the_schema_has_every_endpoint_with_its_fields(http):
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model_id}"),
        *("/tokenize", "/detokenize", "/health", "/livez", "/readyz", "/ping", "/version", "/load", "/metrics"),
    }
    schemas = document["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest"):
        fields = schemas[name]["properties"]
        assert schemas[name]["additionalProperties"] is False
        for field in ("model", "temperature", "top_k", "min_p", "stream_options", "logprobs", "prompt_logprobs"):
            assert field in fields
    assert schemas["ChatRequest"]["properties"]["tools"]["enum"] == [None, []]
