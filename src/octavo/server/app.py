"""The application: endpoints, and what is around them."""

from __future__ import annotations

import difflib

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from octavo.errors import OctavoError
from octavo.server.docs import docs_page
from octavo.server.endpoints import FAMILIES, Endpoints, paths_of
from octavo.server.errors import HttpError, NotFoundError
from octavo.server.middleware import Envelope, Guard
from octavo.server.schema import describe
from octavo.server.state import ServerState
from octavo.server.writing import JSONAnswer, error_answer


def make_app(server: ServerState) -> Endpoints:
    """The endpoints, and what errors become."""
    app = Endpoints()
    app.state.server = server
    if server.config.enable_docs:
        _add_docs(app, server.config.root_path)
    app.add_exception_handler(OctavoError, _answer)
    app.add_exception_handler(HTTPException, _answer_routing)
    app.add_exception_handler(Exception, _answer)
    return app


def wrap(app: FastAPI, server: ServerState) -> ASGIApp:
    """The application with its layers; CORS is outside of the keys, as preflight requests have none."""
    wrapped: ASGIApp = Guard(app, server)
    if server.config.allowed_origins:
        from starlette.middleware.cors import CORSMiddleware

        wrapped = CORSMiddleware(
            wrapped,
            allow_origins=server.config.allowed_origins,
            allow_methods=server.config.allowed_methods,
            allow_headers=server.config.allowed_headers,
            allow_credentials=server.config.allow_credentials,
            expose_headers=["x-request-id", "retry-after"],
        )
    return Envelope(wrapped, server)


async def _answer(request: Request, error: Exception) -> Response:
    return error_answer(error, request.scope)


async def _answer_routing(request: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    assert isinstance(error, HTTPException)
    endpoints = _endpoints()
    path = request.url.path[:100]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow", "")
        reason = f"{request.method} {path} is not possible, but {allowed} is"
        refused = HttpError(reason, status=405, code="method", headers=error.headers)
        return error_answer(refused, request.scope)
    near = difflib.get_close_matches(path, endpoints, 1, 0.5)
    advice = f" Did you mean {near[0]}?" if near else ""
    main = [endpoint for endpoint in endpoints if endpoint.startswith("/v1/") and "{" not in endpoint]
    missing = NotFoundError(f"There is no {path}.{advice} Among others there are: {', '.join(main)}")
    return error_answer(missing, request.scope)


def _endpoints() -> list[str]:
    paths = {path for family in FAMILIES for path in paths_of(family)}
    return sorted(path.replace("{model_id:path}", "{id}") for path in paths if not path.startswith("/{"))


def _add_docs(app: FastAPI, root_path: str) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONAnswer(describe(app, root_path))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return Response(docs_page(describe(app, root_path), str(request.base_url).rstrip("/")), media_type="text/html")
