"""A file that a client sends: in memory while it is small, then on disk, and never more than there is room for."""

from __future__ import annotations

import asyncio
import logging
import os
from tempfile import SpooledTemporaryFile
from typing import IO, cast

from octavo.server.errors import HttpError, UnavailableError

logger = logging.getLogger("octavo.server")
MEMORY_BYTES = 1 << 20  # a longer file is on disk
FILES = 4  # all uploads together may take as much as so many of the longest files


class UploadSpace:
    """What the uploads of a server take, in memory and on disk. `max_bytes` is for one of them."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.used = 0

    def take(self, count: int) -> None:
        """Raises UnavailableError if there is no room."""
        if self.used + count > FILES * self.max_bytes:
            reason = f"uploads of {self.used >> 20} MiB are being worked on already"
            raise UnavailableError(reason, "queue_full", 10)
        self.used += count


class Upload:
    """The file is complete when all of it was added and stored. It is there until `close`."""

    def __init__(self, space: UploadSpace):
        self.file = cast("IO[bytes]", SpooledTemporaryFile(MEMORY_BYTES))  # noqa: SIM115 - `close` closes it
        self.size = 0
        self._space = space
        self._pieces: list[bytes] = []  # bytes that have come and are not in the file yet

    def add(self, piece: bytes) -> None:
        """Raises HttpError if the file is too large, UnavailableError if the server holds too much."""
        if self.size + len(piece) > self._space.max_bytes:
            raise file_too_large(self._space.max_bytes)
        self._space.take(len(piece))
        self.size += len(piece)
        self._pieces.append(piece)

    async def store(self) -> None:
        """Moves what has come into the file, on another thread if that means a disk. Raises UnavailableError."""
        pieces, self._pieces = self._pieces, []
        if self.size <= MEMORY_BYTES:
            self._write(pieces)
        elif pieces:
            await asyncio.get_running_loop().run_in_executor(None, self._write, pieces)

    def close(self) -> None:
        """May be called again."""
        self._space.used -= self.size
        self.size = 0
        self.file.close()

    def _write(self, pieces: list[bytes]) -> None:
        try:
            self.file.writelines(pieces)
        except OSError as error:
            logger.error("an upload can't be stored: %s", error)
            reason = os.strerror(error.errno or 0)  # the error's own text may have paths in it
            raise UnavailableError(f"the upload can't be stored: {reason}", "storage_full", 30) from error


def file_too_large(limit: int) -> HttpError:
    reason = f"file: is larger than {limit} bytes (--max-audio-bytes)"
    return HttpError(reason, "file", status=413, code="file_too_large", headers={"connection": "close"})
