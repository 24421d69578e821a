"""A file of a batch's answers. It only grows, entry by entry, and says what need not be done again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from octavo.errors import OctavoError
from octavo.server.batches.lines import BadLine, Line

BAD_LINE = "invalid_line"
_BEGIN = b'{"id": "batch_req_'
Entry = dict[str, Any]


class Json(bytes):
    """JSON of one line that nobody has read: an answer may have a million numbers, and is written as it is."""


class Reply(NamedTuple):
    """What a request got: HTTP's status, and what goes with it: JSON, as values or as `Json`, or a text."""

    status: int
    body: Any
    request_id: str


def entry_of(line: Line, reply: Reply) -> Entry:
    """What is written of a request that was answered; `error` is None where it got what it wanted."""
    error = None
    if reply.status != 200:
        said = reply.body.get("error", {}) if isinstance(reply.body, dict) else {}
        said = said if isinstance(said, dict) else {"message": said}
        message, field = str(said.get("message") or reply.body), said.get("param")
        if field and not message.startswith(str(field)):
            message = f"{field}: {message}"
        code = said.get("code") or str(reply.status)
        error = _error(line, code, f"body{'.' if field else ': '}{message}")
    response = {"status_code": reply.status, "request_id": reply.request_id, "body": reply.body}
    return _entry(line.custom_id, response, error)


def entry_of_none(line: Line | BadLine, code: str = BAD_LINE, reason: str | None = None) -> Entry:
    """What is written of a line that was not asked for: a bad one, or one that is left out for `reason`."""
    message = line.reason if isinstance(line, BadLine) else reason or ""
    return _entry(line.custom_id, None, _error(line, BAD_LINE if isinstance(line, BadLine) else code, message))


def _error(line: Line | BadLine, code: str, message: str) -> Entry:
    return {"code": code, "message": f"line {line.number}: {message}", "line": line.number}


def _entry(custom_id: str | None, response: Any, error: Any) -> Entry:
    return {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}


def _encoded(entry: Entry) -> bytes:
    """A line of the file."""
    response = entry["response"]
    if response is None or not isinstance(response["body"], Json):
        return json.dumps(entry).encode() + b"\n"
    head = json.dumps({"id": entry["id"], "custom_id": entry["custom_id"]})[:-1]
    more = json.dumps({"status_code": response["status_code"], "request_id": response["request_id"]})[:-1]
    end = json.dumps(entry["error"]).encode()
    body = response["body"].replace(b"\n", b" ")
    return f'{head}, "response": {more}, "body": '.encode() + body + b'}, "error": ' + end + b"}\n"


class UnwrittenError(OctavoError):
    """The disk, or what else takes entries, did not take them."""


class EntryFile:
    """Opens or makes a file of entries, which errors call `name`, and reads what is in it.

    An entry that an earlier run did not finish writing is removed. With `is_durable` an entry that was written survives
    the machine too. Raises OctavoError if the file is something else, can't be written, or is another run's.
    """

    def __init__(self, path: Path, name: str, is_durable: bool = False):
        self.path, self.name = path, name
        self.repaired = False
        self.num_entries = self.num_written = self.num_failed = 0  # the last two by this run
        self._is_durable = is_durable
        self._size = 0  # bytes of whole entries
        self._ids: set[str] = set()
        self._bad_lines: set[int] = set()
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise OctavoError(f"{name}: {error.strerror}") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> EntryFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def has(self, line: Line | BadLine) -> bool:
        """Whether there is an entry for the line; bad ones are known by their number."""
        return line.custom_id in self._ids if isinstance(line, Line) else line.number in self._bad_lines

    def append(self, *entries: Entry) -> None:
        """Raises UnwrittenError if they can't be written: then nothing of them is there."""
        self._write(b"".join(map(_encoded, entries)))
        for entry in entries:
            self._note(entry)
            self.num_written += 1
            self.num_failed += entry["error"] is not None

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
            if self._is_durable:
                os.fsync(self._file.fileno())
        except OSError as failure:
            with contextlib.suppress(OSError):  # of a pipe
                os.truncate(self._file.fileno(), self._size)
            raise UnwrittenError(f"{self.name}: {failure.strerror}; run again to go on") from None
        self._size += len(data)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OctavoError(f"{self.name}: another run is writing it") from None
        except OSError:
            pass  # a file system, or a device, without locks

    def _read(self) -> None:
        """Takes note of the entries; the last one may lack its end, or its newline."""
        if not self.path.is_file():
            return
        data = b"\n"
        with self.path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if not self._take(data):
                    is_torn = not data.endswith(b"\n") and (data.startswith(_BEGIN) or _BEGIN.startswith(data))
                    if not is_torn:
                        raise OctavoError(f"{self.name}: line {number} is no entry of a batch's answers")
                    os.truncate(self._file.fileno(), self._size)
                    self.repaired = True
                    return
                self._size += len(data)
        if not data.endswith(b"\n"):
            self._write(b"\n")
            self.repaired = True

    def _take(self, data: bytes) -> bool:
        """Takes note of one entry; False if it is none."""
        try:
            self._note(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
        return True

    def _note(self, entry: Entry) -> None:
        error = entry["error"] or {}
        if error.get("code") == BAD_LINE:
            self._bad_lines.add(int(error["line"]))
        else:
            self._ids.add(entry["custom_id"])
        self.num_entries += 1
