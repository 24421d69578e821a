"""One connection: uvicorn's HTTP protocol, with bounds on headers and on time, and errors in our shape."""

from __future__ import annotations

import asyncio
import uuid
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from octavo.server.errors import HttpError, encoded
from octavo.server.options import ServerConfig

MAX_URL = 8 << 10  # bytes
CHUNKING = 8  # the most bytes on the wire for each byte of a body in chunks


class Connection(HttpToolsProtocol):
    """`limits` is set by `bounded`."""

    limits: ServerConfig

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._header_bytes = 0  # those of the request that is being read, without the incomplete line
        self._raw_bytes = 0  # all bytes of that request
        self._held_bytes = 0  # since the last piece of its body: headers, chunks' frames, or what the parser holds back
        self._header_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._header_timer = self.loop.call_later(self.limits.keep_alive_timeout, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._header_timer)
        self._stop(self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what the parser holds back too: one line without an end, tiny chunks, or what comes after them."""
        if self._refused:
            return
        self._raw_bytes += len(data)
        self._held_bytes += len(data)
        super().data_received(data)
        limits = self.limits
        most = CHUNKING * limits.max_body_bytes + max(limits.max_audio_bytes, limits.max_file_bytes)
        if self._held_bytes > limits.max_header_bytes or self._raw_bytes > most:
            self._refuse_size()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = self._raw_bytes = self._held_bytes = 0
        self._stop(self._header_timer)
        self._header_timer = self.loop.call_later(self.limits.header_timeout, self._too_slow)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url), len(self.url) > MAX_URL)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value), len(self.headers) > self.limits.max_headers)

    def on_headers_complete(self) -> None:
        self._stop(self._header_timer)
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            self._refuse(HttpError(f"this is not HTTP: {msg}", code="invalid_http"))

    def pause_writing(self) -> None:
        """The client does not read: it may do so for a while."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop(self._write_timer)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait for a client that does not read
        else:
            super().timeout_keep_alive_handler()

    def _count(self, size: int, too_many: bool) -> None:
        self._header_bytes += size
        if too_many or self._header_bytes > self.limits.max_header_bytes:
            self._refuse_size()

    def _refuse_size(self) -> None:
        if not self._refused:
            limit = f"{self.limits.max_headers} headers or {self.limits.max_header_bytes} bytes"
            reason = f"more than {limit} of headers, or a path of more than {MAX_URL} bytes"
            self._refuse(HttpError(reason, status=431, code="headers_too_large"))

    def _too_slow(self) -> None:
        """No whole headers in time: an unused connection is closed, a half-sent request gets an answer."""
        if self._header_bytes == 0:
            self.transport.close()
        elif not self._refused:
            reason = f"the headers did not arrive within {self.limits.header_timeout:g} s"
            self._refuse(HttpError(reason, status=408, code="slow_headers"))

    def _refuse(self, error: HttpError) -> None:
        """Answers without the application, and closes."""
        self._refused = True
        self._stop(self._header_timer)
        body = encoded(error)
        if self._may_answer():
            fields = f"x-request-id: {uuid.uuid4().hex}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
            head = STATUS_LINE[error.status] + b"content-type: application/json\r\n" + fields.encode()
            self.transport.write(head + body)
            if self.cycle is not None:  # the endpoint has no client any more
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        self.transport.close()

    def _may_answer(self) -> bool:
        """Whether what is written now is the answer to what is being read, and not to a request before that."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        return cycle.more_body and not cycle.response_started and not self.pipeline

    @staticmethod
    def _stop(timer: TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def bounded(config: ServerConfig) -> type[Connection]:
    """The class of a server's connections."""
    return type("BoundedConnection", (Connection,), {"limits": config})
