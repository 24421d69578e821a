"""Errors call fields by the names that the request has for them."""

import pytest

from octavo.server.dialects import FieldNames, error_json
from octavo.server.errors import HttpError, UnavailableError
from octavo.server.protocol import messages, ollama, responses

PLACES = ["system", "messages[0]", "messages[1].content[2]"]


@pytest.mark.parametrize(
    ("names", "error", "message", "param"),
    [
        (messages.NAMES, ("max_tokens: at most 5", "max_tokens"), "max_tokens: at most 5", "max_tokens"),
        (
            responses.NAMES,
            ("max_tokens must be at least 1, got 0", "max_tokens"),
            "max_output_tokens must be at least 1, got 0",
            "max_output_tokens",
        ),
        (
            messages.NAMES,
            ("tools[1].function.parameters.properties.a.not: refused", "tools.function.parameters.properties.a.not"),
            "tools[1].input_schema.properties.a.not: refused",
            "tools.input_schema.properties.a.not",
        ),
        (
            messages.NAMES,
            ("messages[2].tool_call_id must be the id of a call", "messages[2].tool_call_id"),
            "messages[1].content[2].tool_use_id must be the id of a call",
            "messages.content.tool_use_id",
        ),
        (
            responses.NAMES,
            ("response_format.json_schema.schema.type: refused", "response_format.json_schema.schema.type"),
            "text.format.schema.type: refused",
            "text.format.schema.type",
        ),
        (ollama.NAMES, ("repetition_penalty: too much", "repetition_penalty"), "options.repeat_penalty: too much", ...),
        (ollama.NAMES, ("enable_thinking: the template has no word", None), "think: the template has no word", None),
        (responses.NAMES, ("messages: at most 4096", "messages"), "input: at most 4096", "input"),
        (responses.NAMES, ("This model's context is short", "max_tokens"), ..., "max_output_tokens"),
        (responses.NAMES, ("max_tokensier: a longer word", None), "max_tokensier: a longer word", None),
    ],
)
def test_a_field_has_the_name_that_the_request_has_for_it(names, error, message, param):
    told = dict(zip(("message", "param"), error, strict=True))
    renamed = FieldNames(names, PLACES).renamed({**told, "code": "invalid_value"})
    assert renamed["message"] == (told["message"] if message is ... else message)
    assert renamed["param"] == (message.partition(":")[0] if param is ... else param)
    assert renamed["code"] == "invalid_value"


@pytest.mark.parametrize(
    ("path", "prefix", "kind"),
    [
        ("/v1/messages", "", "overloaded_error"),
        ("/v1/messages/count_tokens", "", "overloaded_error"),
        ("/proxy/v1/messages", "/proxy", "overloaded_error"),
        ("/v1/messagesque", "", "service_unavailable_error"),
        ("/v1/responses", "", "service_unavailable_error"),
        ("/api/chat", "", None),
    ],
)
def test_an_error_has_the_shape_of_the_path(path, prefix, kind):
    scope = {"raw_path": path.encode(), "root_path": prefix, "state": {"request_id": "one"}}
    body = error_json(UnavailableError("busy", "queue_full", 1), scope)
    if kind is None:
        assert body == {"error": "busy"}
    else:
        assert body["error"]["type"] == kind
        assert body.get("request_id") == ("one" if kind == "overloaded_error" else None)


def test_an_error_without_a_request_has_openai_s_shape():
    assert error_json(HttpError("bad", "field"), {}) == {
        "error": {"message": "bad", "type": "invalid_request_error", "param": "field", "code": "invalid_request"}
    }
