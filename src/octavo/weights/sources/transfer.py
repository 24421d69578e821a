"""Fetching one file: from where an earlier attempt ended, again when the connection breaks, checked at the end."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from octavo.errors import ModelNotFoundError
from octavo.weights.sources.base import CHUNK, RemoteFile, Source, UnavailableError
from octavo.weights.sources.http import TRIES, pause

_PROGRESS = 1 << 20  # bytes after which a connection that breaks does not count against the source


def receive(
    source: Source, file: RemoteFile, partial: Path, advance: Callable[[int], object], stop: threading.Event
) -> bool:
    """Makes `partial` the whole file; whether it is, as `stop` may be set meanwhile.

    `advance` is told of bytes as they come, and with a negative number of those that are thrown away. What was there
    from an earlier attempt is gone on with; if the whole is wrong then, it is fetched once more. Raises
    ModelNotFoundError, UnavailableError, OSError; all but the first keep what is there.
    """
    again = partial.exists() and partial.stat().st_size > 0
    while True:
        with _Partial(partial, advance) as sink:
            if not _fill(source, file, sink, stop):
                return False
            wrong = _fault(file, sink)
            if wrong is None:
                return True
            sink.empty()
        partial.unlink()
        if not again:
            raise ModelNotFoundError(f"{source.reference}: {wrong}; it was not kept")
        again = False


class _Partial:
    """A file that grows, with the SHA-256 of what is in it."""

    def __init__(self, path: Path, advance: Callable[[int], object]):
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  # closed by __exit__
        self._advance, self.size, self._digest = advance, 0, hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            self._digest.update(chunk)
            self.size += len(chunk)

    def __enter__(self) -> _Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:  # of a disk that is nearly full, what fits is written first
            written = self._file.write(rest) or 0
            self._digest.update(rest[:written])
            self.size += written
            self._advance(written)
            rest = rest[written:]

    def empty(self) -> None:
        os.ftruncate(self._file.fileno(), 0)
        self._advance(-self.size)
        self.size, self._digest = 0, hashlib.sha256()


def _fill(source: Source, file: RemoteFile, sink: _Partial, stop: threading.Event) -> bool:
    """Appends what is missing; whether nothing is. Raises UnavailableError after attempts that gave next to nothing."""
    if file.size is None or sink.size > file.size:
        sink.empty()
    tries = 0
    while file.size is None or sink.size < file.size:
        before = sink.size
        try:
            with source.open(file, sink.size) as (start, chunks):
                if start != sink.size:
                    sink.empty()
                for chunk in chunks:
                    sink.write(chunk)
                    if stop.is_set() or (file.size is not None and sink.size > file.size):
                        break
            if stop.is_set():
                return False
            if file.size is None:
                break
            if sink.size < file.size:
                raise UnavailableError(f"{file.name} ended after {sink.size} of {file.size} bytes")
        except UnavailableError as error:
            tries = 1 if sink.size - before >= _PROGRESS else tries + 1
            if tries >= TRIES or stop.wait(pause(tries, error)):
                raise
            if file.size is None:
                sink.empty()
    return True


def _fault(file: RemoteFile, sink: _Partial) -> str | None:
    """What is wrong with a file that came to its end."""
    if file.size is not None and sink.size != file.size:
        return f"{file.name} is longer than the {file.size} bytes that were announced"
    if file.sha256 is not None and sink.sha256 != file.sha256:
        return f"{file.name} has SHA-256 {sink.sha256}, not {file.sha256}"
    return None
