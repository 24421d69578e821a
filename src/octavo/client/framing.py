"""HTTP/1.1 answers and server-sent events, taken out of bytes as they arrive. Nothing here does I/O."""

from __future__ import annotations

import httptools

from octavo.errors import OctavoError

MAX_HEAD = 1 << 16  # the most bytes of a status line and headers
MAX_EVENT = 1 << 26  # the most bytes of one event


class ConnectionFailed(OctavoError):  # noqa: N818
    """The server can't be reached, broke off, or does not speak HTTP."""


class AnswerParser:
    """The status, the headers and the body of one HTTP answer. httptools calls the `on_` methods."""

    def __init__(self) -> None:
        self.status = 0  # 0 until the headers are complete
        self.headers: dict[str, str] = {}
        self.ended = False
        self.keeps_open = False  # whether the connection can be used again afterwards
        self._parser = httptools.HttpResponseParser(self)
        self._head = b""  # the bytes that have arrived of status line and headers
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """What `data` adds to the body. Raises ConnectionFailed."""
        if not self.status:
            self._head += data
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.status:
                raise ConnectionFailed(f"this is not an HTTP server: it answers {self._head[:40]!r}") from None
            if not self.ended:
                raise ConnectionFailed(f"the server's body is not HTTP: {error}") from None
            self.keeps_open = False
        if not self.status and len(self._head) > MAX_HEAD:
            raise ConnectionFailed(f"this is not an HTTP server: it answers {self._head[:40]!r}")
        body = b"".join(self._body)
        self._body.clear()
        return body

    def close(self) -> None:
        """The connection has ended. Raises ConnectionFailed if the answer has not."""
        has_end = "transfer-encoding" in self.headers or "content-length" in self.headers
        if not self.status or (has_end and not self.ended):
            where = "in the middle of its answer" if self.status else "without an answer"
            raise ConnectionFailed(f"the server closed the connection {where}")
        self.ended = True

    def on_message_begin(self) -> None:
        if self.ended:  # what follows the answer is none of it
            self.keeps_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # those that follow a body in chunks are dropped
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and the like: the answer is still to come
            self.headers.clear()
        elif not self.status:
            self.status, self.keeps_open = status, self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        if not self.ended:
            self._body.append(data)

    def on_message_complete(self) -> None:
        self.ended = self.status > 0


class EventParser:
    """The data of server-sent events; comments, ids and names are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes. Raises ConnectionFailed if one grows without end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_EVENT:
            raise ConnectionFailed(f"the server sent an event of more than {MAX_EVENT >> 20} MiB")
        events = []
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events
