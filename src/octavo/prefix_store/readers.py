"""The threads that read. The end of a process waits for none of them: a volume that hangs answers nobody."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

logger = logging.getLogger("octavo")
T = TypeVar("T")


class Readers:
    """At most `most` threads, each of which starts once there is work that no other is free for.

    Those of a ThreadPoolExecutor are no daemons, so that a process could not end before the last has read.
    """

    def __init__(self, most: int):
        self._left = most  # threads that may still be started
        self._queue: SimpleQueue[tuple[Future[Any], Any, Callable[..., Any], tuple[object, ...]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, otherwise: T, work: Callable[..., T], *args: object) -> Future[T]:
        """What `work` will return; `otherwise` if it fails, or if the threads have ended."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                future.set_result(otherwise)
                return future
            self._queue.put((future, otherwise, work, args))
            if not self._idle.acquire(blocking=False) and self._left:
                self._left -= 1
                threading.Thread(target=self._run, name="octavo-prefix-read", daemon=True).start()
        return future

    def close(self) -> None:
        """Ends the threads, each after what it does now. What has not begun is cancelled."""
        with self._lock:
            self._closed = True
            while not self._queue.empty():
                if (asked := self._queue.get()) is not None:
                    asked[0].cancel()
            self._queue.put(None)

    def _run(self) -> None:
        while (asked := self._queue.get()) is not None:
            future, otherwise, work, args = asked
            if future.set_running_or_notify_cancel():
                try:
                    found = work(*args)
                except Exception as error:
                    logger.error("the prefix cache on disk failed", exc_info=error)
                    found = otherwise
                future.set_result(found)
                del found
            del asked, future, work, args, otherwise  # with the store, and what was read
            self._idle.release()
        self._queue.put(None)  # for the next
