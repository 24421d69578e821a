"""HTTP/1.1 answers and server-sent events, cut out of bytes as they arrive. Nothing here does I/O."""

from __future__ import annotations

import re

from octavo.errors import OctavoError

MAX_HEAD = 1 << 16  # bytes of a status line and headers
MAX_EVENT = 1 << 26  # bytes of one event, or of one chunk of a body


class ConnectionFailed(OctavoError):  # noqa: N818
    """The server can't be reached, broke off, or does not speak HTTP."""


class AnswerParser:
    """The status, the headers and the body of one HTTP answer."""

    def __init__(self) -> None:
        self.status = 0  # until the head is there
        self.headers: dict[str, str] = {}
        self.ended = False
        self.keeps_open = False  # whether the connection can be used again afterwards
        self._buffer = bytearray()
        self._chunked = False
        self._left: int | None = None  # bytes of the body still to come; None: until the connection ends

    def feed(self, data: bytes) -> bytes:
        """What `data` adds to the body. Raises ConnectionFailed."""
        self._buffer += data
        if not self.status and not self._read_head():
            return b""
        if self._chunked:
            return self._read_chunks()
        body = bytes(self._buffer if self._left is None else self._buffer[: self._left])
        self._buffer.clear()
        if self._left is not None:
            self._left -= len(body)
            self.ended = self._left == 0
        return body

    def close(self) -> None:
        """The connection has ended. Raises ConnectionFailed if the answer has not."""
        if not self.status or self._chunked or self._left:
            where = "in the middle of its answer" if self.status else "without an answer"
            raise ConnectionFailed(f"the server closed the connection {where}")
        self.ended = True

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 and len(self._buffer) <= MAX_HEAD:
            return False
        first, *lines = self._buffer[: max(end, 0)].decode("latin-1").split("\r\n")
        found = re.match(r"HTTP/1\.([01]) (\d{3})(?: |$)", first)
        if found is None:
            raise ConnectionFailed(f"this is not an HTTP server: it answers {bytes(self._buffer[:40])!r}")
        del self._buffer[: end + 4]
        if found[2].startswith("1"):  # 100 Continue and the like: the answer is still to come
            return self._read_head()
        self.status = int(found[2])
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        length = self.headers.get("content-length", "")
        if not self._chunked and length.isascii() and length.isdigit():
            self._left = int(length)
        self.keeps_open = found[1] == "1" and self.headers.get("connection", "").lower() != "close"
        return True

    def _read_chunks(self) -> bytes:
        buffer, body = self._buffer, bytearray()
        while (end := buffer.find(b"\r\n")) >= 0:
            found = re.match(rb"\s*([0-9a-fA-F]{1,8})\s*(?:;|$)", buffer[:end])
            size = int(found[1], 16) if found else MAX_EVENT + 1
            if size > MAX_EVENT:
                raise ConnectionFailed(f"the server's body has a chunk of a bad size: {bytes(buffer[:end][:20])!r}")
            if size == 0:
                self.ended = buffer.find(b"\r\n\r\n") >= 0  # after trailers, if there are any
                break
            if len(buffer) < end + size + 4:
                break
            body += buffer[end + 2 : end + 2 + size]
            del buffer[: end + size + 4]
        return bytes(body)


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
