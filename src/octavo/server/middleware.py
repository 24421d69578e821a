"""What happens around every endpoint: request ids, keys, the last net for errors, and the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.errors import HttpError
from octavo.server.state import ServerState
from octavo.server.writing import error_answer

logger = logging.getLogger("octavo.server")
# Open to everyone: what an orchestrator asks before it knows a key. /health and /ping are older names of the probes.
PUBLIC = frozenset({"/livez", "/readyz", "/health", "/ping"})
_ID = re.compile(rb"[\w.:-]{1,128}", re.ASCII)
_HOST = re.compile(rb"[A-Za-z0-9._~\-]+(:\d{1,5})?|\[[0-9A-Fa-f:.%]+\](:\d{1,5})?")


class Envelope:
    """The outermost layer. Gives every request an id and every answer an x-request-id, and catches what is left."""

    def __init__(self, app: ASGIApp, server: ServerState):
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        given_id = given.decode() if _ID.fullmatch(given) else None
        request_id = given_id or uuid.uuid4().hex
        ids = {"given_id": given_id, "request_id": request_id}
        scope["state"] = {"is_background": False, **scope.get("state", {}), **ids}
        began, status, is_answered = time.monotonic(), 0, False
        header = (b"x-request-id", request_id.encode())

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_answered
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            else:
                is_answered = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            logger.exception("request %s failed", request_id)
            if not status:
                await error_answer(error)(scope, receive, send_with_id)
            if not is_answered or isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
        finally:
            self._note(scope, status, request_id, time.monotonic() - began)

    def _note(self, scope: Scope, status: int, request_id: str, seconds: float) -> None:
        status = status or 499  # nobody was left to answer
        route = scope.get("route")
        path = getattr(route, "path", "other")
        self._server.http_answers[scope["method"], path, status] += 1
        if self._server.config.log_requests and path not in PUBLIC and path != "/metrics":
            fields = {"id": request_id, "status": status, "seconds": round(seconds, 4), **scope["state"].get("log", {})}
            # The path as JSON: a log line stays one line, whatever somebody asks for.
            asked = json.dumps(scope["path"][:200])
            logger.info("%s %s", scope["method"], asked, extra={"fields": fields})


class Guard:
    """Refuses what has no key or an impossible Host before anything looks at the path.

    The path is compared as it was sent, so that no two readers of it can disagree. Everything but PUBLIC needs a key.
    """

    def __init__(self, app: ASGIApp, server: ServerState):
        self._app, self._server = app, server
        self._prefix = server.config.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = self._prefix  # routes are found with and without it
        try:
            headers = self._check_headers(scope)
            if self._path(scope) not in PUBLIC:
                client = self._server.keys.identify(headers.get(b"authorization"))
                scope["state"]["client"] = client
        except HttpError as error:
            return await error_answer(error)(scope, receive, send)
        await self._app(scope, receive, send)

    def _path(self, scope: Scope) -> str:
        path: str = scope["raw_path"].decode("latin-1")
        return path.removeprefix(self._prefix) if path.startswith(self._prefix + "/") else path

    def _check_headers(self, scope: Scope) -> dict[bytes, bytes]:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) > 1 or any(value and not _HOST.fullmatch(value) for value in hosts):
            raise HttpError("the Host header must be one host name, and a port", "host", code="invalid_host")
        keys = [value for name, value in headers if name == b"authorization"]
        if len(keys) > 1:
            raise HttpError("more than one Authorization header", "authorization", code="invalid_request")
        return dict(headers)
