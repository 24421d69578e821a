"""One answer as a stream: server-sent events with comments where nothing is to be said, or lines of JSON.

Whatever the form, there is one error at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import ClassVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.errors import OctavoError
from octavo.server.dialects import error_json
from octavo.server.errors import ClientGoneError, status_of
from octavo.server.writing import dumps

logger = logging.getLogger("octavo.server")
KEEP_ALIVE = 15.0  # a comment is sent after so many seconds of silence
COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(data: bytes, name: str | None = None) -> bytes:
    """One event, of a type that has a `name` or is known by its data."""
    head = b"data: " if name is None else b"event: " + name.encode() + b"\ndata: "
    return head + data + b"\n\n"


def note_failure(error: BaseException) -> None:
    """Logs what ends a stream that has begun, if it is the server's fault."""
    if status_of(error) >= 500:
        unforeseen = None if isinstance(error, OctavoError) else error  # whose traceback says more
        logger.warning("a stream ended in an error: %s", error, exc_info=unforeseen)


class EventStream(Response):
    """Sends what `events` yields, which are whole events, and `done`.

    The status is sent with the first of them, so that what goes wrong before is an ordinary error. What goes wrong
    later is the last event, and then `done` is not sent.
    """

    media_type = "text/event-stream"
    SILENCE: ClassVar[bytes] = COMMENT  # is sent where nothing is to be said

    def __init__(self, events: AsyncIterator[bytes], done: bytes = DONE):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._done = events, done
        self._started = self._spoke = self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ticker = asyncio.get_running_loop().create_task(self._keep_alive(send))
        try:
            await self._send_all(scope, send)
        finally:
            ticker.cancel()

    def error(self, error: BaseException, scope: Scope) -> bytes:
        """The event that an error is."""
        told = error_json(error, scope)
        return event(dumps(told), told.get("type"))

    async def _send_all(self, scope: Scope, send: Send) -> None:
        try:
            async for piece in self._events:
                await self._write(send, piece)
            await self._write(send, self._done, last=True)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if not self._started or isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
            if not isinstance(error, ClientGoneError):
                note_failure(error)
                await self._write(send, self.error(error, scope), last=True)
            else:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, piece: bytes, last: bool = False) -> None:
        self._spoke, self._ended = True, last
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": piece, "more_body": not last})

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE)
            if self.SILENCE and not self._spoke and not self._ended:
                await self._write(send, self.SILENCE)
            self._spoke = False


class LineStream(EventStream):
    """Sends what `events` yields, each a line of JSON; what goes wrong later is the last one."""

    media_type = "application/x-ndjson"
    SILENCE = b""

    def __init__(self, events: AsyncIterator[bytes]):
        super().__init__(events, b"")

    def error(self, error: BaseException, scope: Scope) -> bytes:
        return dumps(error_json(error, scope)) + b"\n"
