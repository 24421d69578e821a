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

from .conftest import MODEL

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


OPERATIONS = [
    *(("POST", path) for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/ping")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{model_id}", "/health", "/livez", "/readyz", "/ping")),
    *(("GET", path) for path in ("/version", "/load", "/metrics")),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_answer_is_a_5xx_or_undeclared(server, method, path):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")

    cases = strategies.one_of(*(schema[path][method].as_strategy(generation_mode=mode) for mode in GenerationMode))

    @given(cases, strategies.integers(0, 4), strategies.randoms())
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case, most, random):
        if isinstance(case.body, dict):
            case.body = thinned(case.body, most, random)
            if path.startswith("/v1"):
                case.body.setdefault("max_tokens", 8)
        case.call_and_validate(checks=CHECKS)

    check()


def thinned(body, most, random):
    """Up to `most` of the optional fields, so that not all requests are wrong; and no long answers."""
    needed = {"prompt", "messages", "tokens"} & set(body)
    optional = random.sample(sorted(set(body) - needed), min(most, len(set(body) - needed)))
    thin = {name: value for name, value in body.items() if name in needed or name in optional}
    if isinstance(thin.get("model"), str):
        thin["model"] = MODEL
    for name, limit in (("max_tokens", 8), ("n", 4), ("best_of", 4)):
        if type(thin.get(name)) is int:
            thin[name] = min(thin[name], limit)
    return thin


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
