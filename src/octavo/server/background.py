"""Responses in the background: they go on without the client that asked for them, who may come back and look."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any, Protocol

from starlette.requests import Request
from starlette.types import Message

from octavo.server.errors import HttpError

logger = logging.getLogger("octavo.server")
MAX_ENDED = 16  # so many that have ended can still be streamed
Json = dict[str, Any]


class Told(Protocol):
    """What writes a response; `log` has the events so far, by their numbers."""

    id: str
    log: list[bytes]

    def object(self, status: str) -> Json: ...

    def events(self) -> AsyncIterator[bytes]: ...

    def cancel(self) -> None: ...


class BackgroundResponse:
    """One of them: its task, and those who follow its events."""

    def __init__(self, owner: str, writer: Told, leases: ExitStack):
        self.owner, self.writer, self._leases = owner, writer, leases
        self.has_ended = False
        self._news = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def object(self) -> Json:
        return self.writer.object("in_progress" if self.writer.log else "queued")

    async def follow(self, after: int = -1) -> AsyncIterator[bytes]:
        """The events with a number above `after`, as they come."""
        place = after + 1
        while True:
            news, log = self._news, self.writer.log
            while place < len(log):
                yield log[place]
                place += 1
            if self.has_ended:
                return
            await news.wait()

    async def cancel(self) -> None:
        """Ends it, and waits until that is written down."""
        self.writer.cancel()
        await self.wait()

    async def wait(self) -> None:
        with contextlib.suppress(Exception):
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            async for _ in self.writer.events():
                self._tell()
        except Exception:
            logger.exception("a response in the background could not be kept")
        finally:
            self._leases.close()
            self.has_ended = True
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class BackgroundResponses:
    """All that run, and the last of those that have ended."""

    def __init__(self) -> None:
        self._all: OrderedDict[str, BackgroundResponse] = OrderedDict()

    def start(self, owner: str, writer: Told, leases: ExitStack) -> BackgroundResponse:
        """`leases` are closed when it has ended."""
        found = self._all[writer.id] = BackgroundResponse(owner, writer, leases)
        ended = [id for id, each in self._all.items() if each.has_ended]
        for id in ended[: max(0, len(ended) - MAX_ENDED)]:
            del self._all[id]
        return found

    def find(self, owner: str, id: str) -> BackgroundResponse | None:
        found = self._all.get(id)
        return found if found is not None and found.owner == owner else None

    def forget(self, id: str) -> None:
        self._all.pop(id, None)

    async def wait(self) -> None:
        """Until all have ended, as the server does."""
        for each in list(self._all.values()):
            await each.wait()


def detached(request: Request) -> Request:
    """The same request from a client that never leaves."""

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise HttpError("nothing comes any more")

    return Request(request.scope, receive)
