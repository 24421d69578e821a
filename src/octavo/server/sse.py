"""Server-sent events: one answer as a stream, with comments where nothing is to be said, and one error at most."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.errors import OctavoError
from octavo.server.errors import ClientGoneError, encoded, status_of

logger = logging.getLogger("octavo.server")
KEEP_ALIVE = 15.0  # a comment is sent after so many seconds of silence
COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


class EventStream(Response):
    """Sends what `events` yields, which are whole events.

    The status is sent with the first of them, so that what goes wrong before is an ordinary error. What goes wrong
    later is the last event, and there is no [DONE].
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._started = self._spoke = self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ticker = asyncio.get_running_loop().create_task(self._keep_alive(send))
        try:
            await self._send_all(send)
        finally:
            ticker.cancel()

    async def _send_all(self, send: Send) -> None:
        try:
            async for piece in self._events:
                await self._write(send, piece)
            await self._write(send, DONE, last=True)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if not self._started or isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
            if not isinstance(error, ClientGoneError):
                if status_of(error) >= 500:
                    unforeseen = None if isinstance(error, OctavoError) else error  # whose traceback says more
                    logger.warning("a stream ended in an error: %s", error, exc_info=unforeseen)
                await self._write(send, event(encoded(error)), last=True)
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
            if not self._spoke and not self._ended:
                await self._write(send, COMMENT)
            self._spoke = False
