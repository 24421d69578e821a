"""The OpenAPI schema: bodies are read by the server itself, so each endpoint declares what it takes and answers.

Schemas of types take a quarter of a second to make, so that they are filled in when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from octavo.server.protocol.answers import ErrorAnswer, Health
from octavo.server.protocol.forms import FormRequest
from octavo.version import __version__

JSON = "application/json"
REFERENCE = "#/components/schemas/{model}"
_schemas: list[tuple[Any, JsonSchemaMode, dict[str, Any]]] = []  # types of all endpoints, and where theirs is to be
_queries: list[tuple[type[BaseModel], list[Any]]] = []  # and those of parameters of URLs
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
    wrong = _as_json(error, "serialization")
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _ERRORS[status], "content": wrong} for status in statuses
    }
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in texts}
    if streams:
        content["text/event-stream"] = {"schema": _EVENT}
    if answer is not None:
        content |= _as_json(answer, "serialization")
    responses[200] = {"description": "the answer", "content": content}
    if probe:
        not_now = _as_json(Health, "serialization")
        responses[503] = {"description": "not now; `reason` says why", "content": not_now}
    extra: dict[str, Any] = {}
    if body is not None:
        kind = "multipart/form-data" if issubclass(body, FormRequest) else JSON
        extra["requestBody"] = {"required": True, "content": _as_json(body, "validation", kind)}
    if query is not None:
        extra["parameters"] = []
        _queries.append((query, extra["parameters"]))
    return {"responses": responses, "openapi_extra": extra, "response_model": None}


def _as_json(kind: Any, mode: JsonSchemaMode, media_type: str = JSON) -> dict[str, Any]:
    """Content of that type, whose schema comes later."""
    schema: dict[str, Any] = {}
    _schemas.append((kind, mode, schema))
    return {media_type: {"schema": schema}}


def describe(app: FastAPI, root_path: str) -> dict[str, Any]:
    """The schema of all routes, made once."""
    if app.openapi_schema is None:
        from fastapi.openapi.utils import get_openapi

        definitions = _fill_in()
        schema = get_openapi(
            title="Octavo", version=__version__, summary="An OpenAI-compatible server", routes=app.routes
        )
        schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions)
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}, {}]
        if root_path:
            schema["servers"] = [{"url": root_path}]
        app.openapi_schema = schema
    return app.openapi_schema


def _fill_in() -> dict[str, Any]:
    """Puts the schemas where they are to be; returns those that they refer to, by their names."""
    adapters = [(place, mode, TypeAdapter(kind)) for place, (kind, mode, _) in enumerate(_schemas)]
    made, definitions = TypeAdapter.json_schemas(adapters, ref_template=REFERENCE)
    for place, (_, mode, schema) in enumerate(_schemas):
        schema.update(made[place, mode])
    for query, parameters in _queries:
        fields = query.model_json_schema()["properties"].items()
        parameters[:] = [{"in": "query", "name": name, "schema": field} for name, field in fields]
    return dict(definitions.get("$defs", {}))
