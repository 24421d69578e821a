"""What happens around every endpoint: request ids, keys, the last net for errors, and the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from contextlib import ExitStack
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.dialects import is_anthropic, path_of
from octavo.server.errors import HttpError
from octavo.server.page import is_page
from octavo.server.state import ServerState
from octavo.server.writing import error_answer

logger = logging.getLogger("octavo.server")
# Open to everyone: what an orchestrator asks before it knows a key. /health and /ping are older names of the probes.
_BEGINNINGS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
PUBLIC = frozenset({"/livez", "/readyz", "/health", "/ping"})
KEY_PROTOCOL = "openai-insecure-api-key."  # and the key: OpenAI's subprotocol for pages
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
        leases = ExitStack()  # of models that the request uses
        own = {"leases": leases, "waited": 0.0}  # seconds for a model
        scope["state"] = {"is_background": False, **scope.get("state", {}), **ids, **own}
        began, status, is_answered = time.monotonic(), 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_answered
            if message["type"] in _BEGINNINGS:
                status = message.get("status", 101)
                names = (b"x-request-id", b"request-id") if is_anthropic(scope) else (b"x-request-id",)
                more = [(name, request_id.encode()) for name in names]
                if self._server.draining and message["type"] == _BEGINNINGS[0]:
                    more.append((b"connection", b"close"))  # the next request shall go to another replica
                message["headers"] = [*message.get("headers", ()), *more]
            else:
                is_answered = not message.get("more_body", False)
            await send(message)

        is_post = scope.get("method") == "POST"
        self._server.num_posts += is_post
        try:
            await self._app(scope, receive, send_with_id)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            logger.exception("request %s failed", request_id)
            if not status:
                await error_answer(error, scope)(scope, receive, send_with_id)
            if not is_answered or isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
        finally:
            leases.close()
            self._server.num_posts -= is_post
            self._note(scope, status, request_id, time.monotonic() - began)

    def _note(self, scope: Scope, status: int, request_id: str, seconds: float) -> None:
        status = status or 499  # nobody was left to answer
        route = scope.get("route")
        path = getattr(route, "path", "other")
        method = scope.get("method", "WS")
        self._server.http_answers[method, path, status] += 1
        if self._server.config.log_requests and path not in PUBLIC and path != "/metrics":
            fields = {"id": request_id, "status": status, "seconds": round(seconds, 4), **scope["state"].get("log", {})}
            # The path as JSON: a log line stays one line, whatever somebody asks for.
            asked = json.dumps(scope["path"][:200])
            logger.info("%s %s", method, asked, extra={"fields": fields})


class Guard:
    """Refuses what has no key or an impossible Host before anything looks at the path.

    The path is compared as it was sent, so that no two readers of it can disagree. Everything but
    PUBLIC and the files of the page, which hold nothing of the server's, needs a key.
    """

    def __init__(self, app: ASGIApp, server: ServerState):
        self._app, self._server = app, server
        self._prefix = server.config.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = self._prefix  # routes are found with and without it
        try:
            headers = self._check_headers(scope)
            if not self._is_public(scope):
                key = _authorization(headers) or _key_of_page(scope)
                scope["state"]["client"] = self._server.keys.identify(key)
            if scope["type"] == "websocket":
                self._check_origin(headers)
        except HttpError as error:
            return await error_answer(error, scope)(scope, receive, send)
        await self._app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        path = path_of(scope)
        return path in PUBLIC or (self._server.config.ui and is_page(scope.get("method", ""), path))

    def _check_headers(self, scope: Scope) -> dict[bytes, bytes]:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) > 1 or any(value and not _HOST.fullmatch(value) for value in hosts):
            raise HttpError("the Host header must be one host name, and a port", "host", code="invalid_host")
        for one in (b"authorization", b"x-api-key"):
            if sum(name == one for name, _ in headers) > 1:
                raise HttpError(f"more than one {one.decode()} header", one.decode(), code="invalid_request")
        return dict(headers)

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """WebSockets of other sites' pages are refused here: browsers open them without asking. Raises HttpError."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        own = headers.get(b"host", b"").decode("latin-1")
        allowed = self._server.config.allowed_origins
        if not origin or origin.partition("://")[2] == own or "*" in allowed or origin in allowed:
            return
        reason = f"pages of {origin[:100]} may not call this server; allow them with --allowed-origins"
        raise HttpError(reason, "origin", status=403, code="origin_not_allowed")


def _key_of_page(scope: Scope) -> bytes | None:
    """The Authorization of a page's WebSocket, which can't send headers and has its key among the subprotocols.

    It is percent-encoded there: a subprotocol is a token, and keys may have characters such as / and =.
    """
    for name in scope.get("subprotocols", ()):
        if name.startswith(KEY_PROTOCOL):
            return b"Bearer " + unquote_to_bytes(name.removeprefix(KEY_PROTOCOL))
    return None


def _authorization(headers: dict[bytes, bytes]) -> bytes | None:
    """The Authorization header, or what it would be with the key in x-api-key, where Anthropic's clients have it."""
    key = headers.get(b"x-api-key")
    return headers.get(b"authorization", b"Bearer " + key if key else None)
