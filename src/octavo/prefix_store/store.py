"""The store as an engine sees it: what it gives is written, and what it asks for is read, on threads of the store's."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from octavo.prefix_store.base import QUEUED_BYTES, StoreStats
from octavo.prefix_store.entry import Bytes, DamagedError
from octavo.prefix_store.folder import Folder
from octavo.prefix_store.readers import Readers

logger = logging.getLogger("octavo")

Contents = Callable[[], Bytes]  # uint8 [bytes]; to ask is to wait, where a device is still computing them
READERS = 2  # threads
NICENESS = 10  # of the thread that writes: steps come first
PAUSE = 10.0  # seconds without writing after a failure, as of a disk that is full
WARN_AGAIN = 60.0  # seconds between two warnings of files that can't be used
AT_END = 10.0  # seconds that the end of a process waits for what is to be written


class PrefixStore:
    """Reads and writes the files of one model in a folder; see `Folder`. `identity` is the root of its keys."""

    def __init__(self, folder: Folder, identity: bytes):
        self.folder, self.identity, self.stats = folder, identity, StoreStats()
        self._readers = Readers(READERS)
        self._writer = _Writer(folder, self.stats)
        self._warned_at: float | None = None
        weakref.finalize(self, _end, self._readers, self._writer)

    @property
    def has_room(self) -> bool:
        """Whether another block may be given to be written now."""
        return self._writer.has_room

    def write(self, key: bytes, kind: str, contents: Contents, num_bytes: int, depth: int = 0) -> None:
        """Writes contents under a key some time later, or, where that fails, never. `depth`: see `Folder.touch`."""
        writer = self._writer  # work that is left holds no store, which would never end
        writer.put(num_bytes, lambda: writer.write(key, kind, contents, depth))

    def touch(self, keys: Sequence[bytes], kind: str = "kv") -> None:
        """Files count as used now, if they are there and the disk has nothing else to do: nothing piles up for this."""
        folder = self.folder
        if keys and self._writer.is_idle:
            self._writer.put(0, lambda: folder.touch(kind, keys))

    def find(self, keys: Sequence[bytes], num_bytes: int, state_bytes: int = 0) -> Future[int]:
        """How many of the first keys have files; with `state_bytes`, up to the last that has one of a state, too."""
        return self._readers.submit(0, self._find, list(keys), num_bytes, state_bytes)

    def read(self, key: bytes, kind: str, num_bytes: int, depth: int = 0) -> Future[Bytes | None]:
        """What is kept under a key: uint8 [num_bytes]; None if there is nothing that is good."""
        return self._readers.submit(None, self._read, key, kind, num_bytes, depth)

    def wait_for_room(self, seconds: float) -> None:
        self._writer.wait_for_room(seconds)

    def flush(self, seconds: float = AT_END) -> bool:
        """Waits until all that was given is written; False if that takes longer."""
        return self._writer.flush(seconds)

    def close(self) -> None:
        """Writes what is left, and ends the threads. What is asked for later is not there."""
        _end(self._readers, self._writer)

    def _find(self, keys: list[bytes], num_bytes: int, state_bytes: int) -> int:
        found = 0
        for count, key in enumerate(keys, 1):
            if not self.folder.has(key, "kv", num_bytes):
                break
            if not state_bytes or self.folder.has(key, "state", state_bytes):
                found = count
        return found

    def _read(self, key: bytes, kind: str, num_bytes: int, depth: int) -> Bytes | None:
        try:
            contents = self.folder.read(key, kind, num_bytes, depth)
        except DamagedError as error:
            self.stats.damaged_files += 1
            self._warn("a file of the prefix cache is damaged and is not used: %s", error)
            return None
        except Exception as error:  # of the system, or that there is no memory for it: all as good as nothing
            self.stats.errors += 1
            self._warn("a file of the prefix cache can't be read: %s", error)
            return None
        if contents is not None:
            self.stats.read_bytes += num_bytes
        return contents

    def _warn(self, text: str, error: Exception) -> None:
        """The metrics count all of them; the log tells of one now and then."""
        now = time.monotonic()
        if self._warned_at is None or now > self._warned_at + WARN_AGAIN:
            self._warned_at = now
            logger.warning(text, error)


class _Writer:
    """A thread that does what it is given, in order, below the priority of others. It starts with the first work."""

    def __init__(self, folder: Folder, stats: StoreStats):
        self._folder, self._stats = folder, stats
        self._queue: deque[tuple[int, Callable[[], object]]] = deque()
        self._changed = threading.Condition()
        self._queued_bytes = 0
        self._is_idle, self._closing = True, False
        self._thread: threading.Thread | None = None
        self._failed_at: float | None = None
        self._has_warned = False

    @property
    def has_room(self) -> bool:
        return self._queued_bytes < QUEUED_BYTES

    @property
    def is_idle(self) -> bool:
        return self._is_idle

    def put(self, num_bytes: int, work: Callable[[], object]) -> None:
        with self._changed:
            if self._closing:
                return
            self._queue.append((num_bytes, work))
            self._queued_bytes += num_bytes
            self._is_idle = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="octavo-prefix-write", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_for_room(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.has_room, seconds)

    def flush(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._is_idle, seconds)

    def close(self) -> None:
        if threading.current_thread() is not self._thread:  # where the garbage collector runs, nobody chooses
            self.flush(AT_END)
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def write(self, key: bytes, kind: str, contents: Contents, depth: int) -> None:
        if self._failed_at is not None and time.monotonic() < self._failed_at + PAUSE:
            self._stats.dropped_blocks += 1
            return
        try:
            written = self._folder.write(key, kind, contents(), depth)
        except OSError as error:
            self._stats.errors += 1
            self._stats.dropped_blocks += 1
            self._failed_at = time.monotonic()
            if not self._has_warned:
                logger.warning(
                    "the prefix cache can't be written to %s (%s): what is not there is computed again",
                    *(self._folder.given, error.strerror or error),
                )
            self._has_warned = True
            return
        self._failed_at, self._has_warned = None, False
        self._stats.written_bytes += written
        self._stats.written_blocks += written > 0
        self._stats.size = self._folder.size

    def _work(self) -> None:
        with suppress(OSError, AttributeError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        with suppress(OSError):
            self._stats.size = self._folder.trim()
        while (work := self._next()) is not None:
            num_bytes, do = work
            try:
                do()
            except Exception as error:
                logger.error("the prefix cache on disk failed", exc_info=error)
            del work, do  # with what is to be written
            with self._changed:
                self._queued_bytes -= num_bytes
                self._is_idle = not self._queue
                self._changed.notify_all()

    def _next(self) -> tuple[int, Callable[[], object]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else None


def _end(readers: Readers, writer: _Writer) -> None:
    readers.close()
    writer.close()
