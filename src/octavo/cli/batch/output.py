"""The file of a batch's answers. It only grows, entry by entry, and says what need not be done again."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from octavo.cli.batch.lines import BadLine, Line
from octavo.errors import OctavoError

BAD_LINE = "invalid_line"
_BEGIN = b'{"id": "batch_req_'


class Reply(NamedTuple):
    """What a request got: HTTP's status, and the JSON that goes with it."""

    status: int
    body: Any
    request_id: str


class BatchOutput:
    """Opens or makes the file, and reads what is in it.

    An entry that an earlier run did not finish writing is removed. Raises OctavoError if the file is something else,
    can't be written, or is another run's.
    """

    def __init__(self, path: Path):
        self.path = path
        self.repaired = False
        self.num_written = self.num_failed = 0  # by this run
        self._ids: set[str] = set()
        self._bad_lines: set[int] = set()
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise OctavoError(f"--output-file {path}: {error.strerror}") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> BatchOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._file.close()

    def has(self, line: Line | BadLine) -> bool:
        """Whether there is an entry for the line; bad ones are known by their number."""
        return line.custom_id in self._ids if isinstance(line, Line) else line.number in self._bad_lines

    def write(self, line: Line, reply: Reply) -> None:
        error = None
        if reply.status != 200:
            said = reply.body.get("error", {}) if isinstance(reply.body, dict) else {}
            said = said if isinstance(said, dict) else {"message": said}
            message, field = str(said.get("message") or reply.body), said.get("param")
            if field and not message.startswith(str(field)):
                message = f"{field}: {message}"
            error = {
                "code": said.get("code") or str(reply.status),
                "message": f"line {line.number}: body{'.' if field else ': '}{message}",
                "line": line.number,
            }
        response = {"status_code": reply.status, "request_id": reply.request_id, "body": reply.body}
        self._append(line.custom_id, response, error)

    def write_bad(self, line: BadLine) -> None:
        error = {"code": BAD_LINE, "message": f"line {line.number}: {line.reason}", "line": line.number}
        self._append(line.custom_id, None, error)

    def _append(self, custom_id: str | None, response: Any, error: Any) -> None:
        entry = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
        except OSError as failure:
            raise OctavoError(f"--output-file {self.path}: {failure.strerror}; run again to go on") from None
        self.num_written += 1
        self.num_failed += error is not None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OctavoError(f"--output-file {self.path}: another run is writing it") from None
        except OSError:
            pass  # a file system, or a device, without locks

    def _read(self) -> None:
        """Takes note of the entries; the last one may lack its end, or its newline."""
        if not self.path.is_file():
            return
        self._file.seek(0)
        start = 0
        for number, data in enumerate(self._file, 1):
            if not self._take(data):
                is_torn = not data.endswith(b"\n") and (data.startswith(_BEGIN) or _BEGIN.startswith(data))
                if not is_torn:
                    raise OctavoError(f"--output-file {self.path}: line {number} is no entry of a batch's answers")
                os.truncate(self._file.fileno(), start)
                self.repaired = True
            elif not data.endswith(b"\n"):
                self._file.write(b"\n")
                self._file.flush()
                self.repaired = True
            start += len(data)

    def _take(self, data: bytes) -> bool:
        """Takes note of one entry; False if it is none."""
        try:
            entry = json.loads(data)
            error = entry["error"] or {}
            if error.get("code") == BAD_LINE:
                self._bad_lines.add(int(error["line"]))
            else:
                self._ids.add(entry["custom_id"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
        return True
