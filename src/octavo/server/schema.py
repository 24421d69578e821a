"""The OpenAPI schema: bodies are read by the server itself, so each endpoint declares what it takes and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from octavo.server.protocol.answers import ErrorAnswer, Health
from octavo.server.protocol.forms import FormRequest
from octavo.version import __version__

REFERENCE = "#/components/schemas/{model}"
_bodies: dict[str, type[BaseModel]] = {}  # of all endpoints
_ERRORS = {
    400: "the request is wrong; `param` names the field",
    401: "no API key, or a wrong one",
    404: "no such model or endpoint",
    408: "the body came too slowly",
    413: "the body is too large",
    415: "the body has another Content-Type",
    429: "the key's minute is used up; see Retry-After",
    431: "the headers are too large",
    500: "the engine or the server failed",
    503: "loading, shutting down, or the queue is full; see Retry-After",
    504: "the deadline passed",
}
_READING = (400, 401, 404, 431, 500, 503)


# Of a stream, a schema before OpenAPI 3.2 describes each event.
_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "JSON, and at the end [DONE]"}},
    "required": ["data"],
}


def endpoint(
    body: type[BaseModel] | None,
    answer: Any,
    *,
    streams: bool = False,
    probe: bool = False,
    texts: Sequence[str] = (),
    error: type[BaseModel] = ErrorAnswer,
    query: type[BaseModel] | None = None,
) -> dict[str, Any]:
    """Arguments of a route: what it takes, and everything that it may answer.

    `answer` is a model of JSON, a union of those, or None; `texts` are media types that it may have instead;
    `error` is a model of what its errors are, `query` of what its URL may say.
    """
    statuses = _ERRORS if body is not None else dict.fromkeys(_READING)
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": error, "description": _ERRORS[status]} for status in statuses
    }
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in texts}
    if streams:
        content["text/event-stream"] = {"schema": _EVENT}
    responses[200] = {"description": "the answer", "content": content}
    if answer is not None:
        responses[200]["model"] = answer
    if probe:
        responses[503] = {"model": Health, "description": "not now; `reason` says why"}
    extra: dict[str, Any] = {}
    if body is not None:
        _bodies[body.__name__] = body
        kind = "multipart/form-data" if issubclass(body, FormRequest) else "application/json"
        schema = {"$ref": REFERENCE.format(model=body.__name__)}
        extra["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    if query is not None:
        fields = query.model_json_schema()["properties"].items()
        extra["parameters"] = [{"in": "query", "name": name, "schema": field} for name, field in fields]
    return {"responses": responses, "openapi_extra": extra, "response_model": None}


def describe(app: FastAPI, root_path: str) -> dict[str, Any]:
    """The schema of all routes, made once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title="Octavo", version=__version__, summary="An OpenAI-compatible server", routes=app.routes
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        _, definitions = models_json_schema([(body, "validation") for body in _bodies.values()], ref_template=REFERENCE)
        schemas.update(definitions["$defs"])
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}, {}]
        if root_path:
            schema["servers"] = [{"url": root_path}]
        app.openapi_schema = schema
    return app.openapi_schema
