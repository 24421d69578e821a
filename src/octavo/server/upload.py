"""A file that a client sends: in memory while it is small, then on disk, and never more than there is room for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, cast

from octavo.server.errors import HttpError, UnavailableError
from octavo.weights.cache import publish

logger = logging.getLogger("octavo.server")
MEMORY_BYTES = 1 << 20  # a longer file is on disk
FILES = 4  # all uploads together may take as much as so many of the longest files


class UploadSpace:
    """What the uploads of a server take, in memory and on disk.

    `max_bytes`, which the option `limit` says, is for one of them. With a `folder` they are in there from the
    beginning, and may be kept.
    """

    def __init__(self, max_bytes: int, limit: str = "max_audio_bytes", folder: Path | None = None):
        self.max_bytes, self.folder = max_bytes, folder
        self._limit = limit
        self.used = 0

    def too_large(self) -> HttpError:
        reason = f"file: is larger than {self.max_bytes} bytes (--{self._limit.replace('_', '-')})"
        return HttpError(reason, "file", status=413, code="file_too_large", headers={"connection": "close"})

    def take(self, count: int) -> None:
        """Raises UnavailableError if there is no room."""
        if self.used + count > FILES * self.max_bytes:
            reason = f"uploads of {self.used >> 20} MiB are being worked on already"
            raise UnavailableError(reason, "queue_full", 10)
        self.used += count


class Upload:
    """The file is complete when all of it was added and stored. It is there until `close`, unless it is kept.

    `filename` is what the client calls it. Raises UnavailableError if it can't be made.
    """

    def __init__(self, space: UploadSpace, filename: str = ""):
        self.filename = filename
        self.size = 0
        self._space = space
        self._path: Path | None = None
        if space.folder is None:
            self.file = cast("IO[bytes]", SpooledTemporaryFile(MEMORY_BYTES))  # noqa: SIM115 - `close` closes it
        else:
            self._path = space.folder / uuid.uuid4().hex
            try:
                self.file = self._path.open("xb")
            except OSError as error:
                raise _not_stored(error) from error
        self._pieces: list[bytes] = []  # bytes that have come and are not in the file yet

    def add(self, piece: bytes) -> None:
        """Raises HttpError if the file is too large, UnavailableError if the server holds too much."""
        if self.size + len(piece) > self._space.max_bytes:
            raise self._space.too_large()
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

    def keep(self, target: Path) -> None:
        """Gives it its name for good, whole and on the disk. Raises OSError."""
        assert self._path is not None
        self.file.flush()
        publish(self._path, target)

    def close(self) -> None:
        """May be called again."""
        self._space.used -= self.size
        self.size = 0
        with contextlib.suppress(OSError):  # what is left in the buffer of a full disk
            self.file.close()
        if self._path is not None:
            with contextlib.suppress(OSError):  # what is left is removed at the next start
                self._path.unlink(missing_ok=True)

    def _write(self, pieces: list[bytes]) -> None:
        try:
            self.file.writelines(pieces)
        except OSError as error:
            raise _not_stored(error) from error


def _not_stored(error: OSError) -> UnavailableError:
    logger.error("an upload can't be stored: %s", error)
    reason = os.strerror(error.errno or 0)  # the error's own text may have paths in it
    return UnavailableError(f"the upload can't be stored: {reason}", "storage_full", 30)
