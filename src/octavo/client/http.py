"""An HTTP/1.1 client over asyncio: as little as talking to a model server needs, on httptools.

A load generator shares the machine with the server that it measures. Here bytes are cut into pieces where they arrive,
in the protocol's callback, and a task is woken once for what arrived together.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from octavo.client.framing import AnswerParser, ConnectionFailed
from octavo.errors import ConfigError

CONNECT_TIMEOUT = 10.0  # seconds


class Address(NamedTuple):
    """Where a server is: `path` is what stands before every endpoint, without a slash at its end."""

    tls: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """http://host:port, with or without /v1. Raises ConfigError."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            raise ConfigError("url", url, "the port must be a number up to 65535") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f]", url):
            raise ConfigError("url", url, "must be http://HOST:PORT or https://HOST:PORT")
        if parts.query or parts.fragment or parts.username:
            raise ConfigError("url", url, "must have no user, query or fragment; keys go to --api-key")
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(tls, parts.hostname, port or (443 if tls else 80), path)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


class Arrival(NamedTuple):
    """Bytes of a body, and when they arrived: `time.perf_counter()`, before anything was done with them."""

    time: float
    data: bytes


class HttpClient:
    """Connections to one server. They are kept and used again; one request at a time is on each."""

    def __init__(self, address: Address, headers: Mapping[str, str] | None = None):
        self.address = address
        self._idle: list[Connection] = []
        self._tls = ssl.create_default_context() if address.tls else None
        lines = {"host": str(address).partition("://")[2].removesuffix(address.path), **(headers or {})}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> AsyncIterator[Connection]:
        """Sends a request and waits for the head of the answer. Leaving early drops the connection.

        Raises ConnectionFailed.
        """
        kind = f"content-type: {content_type}\r\n" if body else ""
        head = f"{method} {self.address.path}{path} HTTP/1.1\r\n{self._head}{kind}content-length: {len(body)}\r\n\r\n"
        connection = await self._send(head.encode("latin-1") + body)
        try:
            yield connection
        finally:
            if connection.parser.ended and connection.parser.keeps_open and not connection.is_closed:
                self._idle.append(connection)
            else:
                connection.transport.abort()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().transport.abort()

    async def _send(self, request: bytes) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_closed:
                continue
            try:
                await connection.exchange(request)
                return connection
            except ConnectionFailed:  # a server may close what is idle just when it is used again
                if connection.has_received:
                    raise
        connection = await self._connect()
        await connection.exchange(request)
        return connection

    async def _connect(self) -> Connection:
        loop, (_, host, port, _) = asyncio.get_running_loop(), self.address
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, connection = await loop.create_connection(Connection, host, port, ssl=self._tls)
        except TimeoutError:
            raise ConnectionFailed(f"{self.address}: no connection within {CONNECT_TIMEOUT:.0f} s") from None
        except OSError as error:
            known = error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError)
            reason = os.strerror(error.errno or 0) if known else " ".join(str(error).split())
            raise ConnectionFailed(f"{self.address}: can't connect: {reason}") from None
        return connection


class Connection(asyncio.Protocol):
    """One connection, and the answer that is on it: its head is there, its body arrives while it is iterated."""

    def __init__(self) -> None:
        self.parser = AnswerParser()
        self.inbox: deque[Arrival] = deque()
        self.has_received = self.is_closed = False
        self._error: ConnectionFailed | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport

    @property
    def status(self) -> int:
        return self.parser.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self.parser.headers

    async def arrivals(self) -> AsyncIterator[Arrival]:
        """The answer's body, piece by piece. Raises ConnectionFailed if it breaks off."""
        while True:
            while self.inbox:
                yield self.inbox.popleft()
            if self.parser.ended:
                return
            await self._news()

    async def read(self) -> bytes:
        return b"".join([arrival.data async for arrival in self.arrivals()])

    async def exchange(self, request: bytes) -> None:
        """Sends a request and waits for the answer's head. Raises ConnectionFailed, or what cancels it."""
        self.parser, self.has_received = AnswerParser(), False
        self.transport.write(request)
        try:
            while not self.parser.status:
                await self._news()
        except BaseException:
            self.transport.abort()
            raise

    async def _news(self) -> None:
        """Waits until something has arrived, or the connection has ended. Raises ConnectionFailed."""
        if self._error is not None:
            raise self._error
        if not self.is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.has_received = True
        try:
            body = self.parser.feed(data)
        except ConnectionFailed as error:
            self._error = error
            self.transport.abort()
        else:
            if body:
                self.inbox.append(Arrival(now, body))
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        try:
            self.parser.close()
        except ConnectionFailed as failure:
            self._error = self._error or failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
