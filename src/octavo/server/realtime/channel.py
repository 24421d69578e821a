"""Events to the client of a session, and what its work needs of a request."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.types import Message
from starlette.websockets import WebSocket

from octavo.errors import OctavoError
from octavo.server.errors import body_of
from octavo.server.realtime.conversation import new_id

logger = logging.getLogger("octavo.server")


def told(error: Exception) -> dict[str, Any]:
    """The JSON of an error, which is logged if it was not raised on purpose."""
    if not isinstance(error, OctavoError):
        logger.error("a realtime session failed", exc_info=error)
    found: dict[str, Any] = body_of(error)["error"]
    return found


def event(kind: str, **fields: Any) -> bytes:
    """The JSON of an event, in ASCII: what a client gets back of its own texts need not be Unicode."""
    return json.dumps({"type": kind, "event_id": new_id("event"), **fields}, separators=(",", ":")).encode()


class Channel:
    """One side of a WebSocket: `send` waits for a client that reads slowly."""

    def __init__(self, websocket: WebSocket):
        self._websocket = websocket

    async def send(self, kind: str, **fields: Any) -> None:
        """Raises WebSocketDisconnect once the client has gone."""
        await self.forward(event(kind, **fields))

    async def forward(self, written: bytes) -> None:
        """Sends an event that has been written. Raises WebSocketDisconnect."""
        await self._websocket.send_text(written.decode())

    async def refuse(self, error: Exception, event_id: str | None = None) -> None:
        """Tells what is wrong with a client's event; the session goes on."""
        await self.send("error", error={**told(error), "event_id": event_id})

    def request(self, leases: ExitStack) -> Request:
        """For a `Generation`, which is cancelled when the client goes; what it holds, `leases` let go."""
        scope = self._websocket.scope
        fields = {name: scope[name] for name in ("app", "path", "headers", "query_string")}
        return Request(
            {**fields, "type": "http", "method": "GET", "state": {**scope["state"], "leases": leases, "waited": 0.0}},
            _never,
        )


async def _never() -> Message:
    """Nothing comes from a client that a generation should read."""
    return await asyncio.Future()
