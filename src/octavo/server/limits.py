"""The queue of a model: how much may wait, and when to come back."""

from __future__ import annotations

import time
from collections import deque

from octavo.server.errors import UnavailableError

MEASURED_SECONDS = 30.0  # the drain rate is that of so many past seconds


class Queue:
    """Requests of one model that have no token yet, and their prompts' tokens, within limits."""

    def __init__(self, max_requests: int, max_tokens: int):
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.seats = 0  # so many requests run at once, and do not wait
        self.requests = 0  # admitted, and not ended
        self.tokens = 0  # of prompts that have no token yet
        self._ended: deque[float] = deque()  # when requests ended, lately

    def admit(self, num_requests: int) -> None:
        """Raises UnavailableError if the queue is too long for that many more, unless nothing waits."""
        waiting = self.requests - self.seats
        if waiting > 0 and waiting + num_requests > self.max_requests:
            raise UnavailableError(f"{waiting} requests are waiting already", "queue_full", self._drain_seconds())

    def enter(self, num_requests: int, num_tokens: int) -> None:
        """Takes requests in. Raises UnavailableError if too many tokens wait with theirs, unless none do."""
        if self.tokens and self.tokens + num_tokens > self.max_tokens:
            reason = f"{self.tokens} prompt tokens are waiting already"
            raise UnavailableError(reason, "queue_full", self._drain_seconds())
        self.requests += num_requests
        self.tokens += num_tokens

    def wait(self, num_tokens: int) -> None:
        """A request that was taken in goes on with more."""
        self.tokens += num_tokens

    def start(self, num_tokens: int) -> None:
        """A request has its first token."""
        self.tokens -= num_tokens

    def leave(self, num_requests: int) -> None:
        """`num_requests` requests ended, in whatever way."""
        self.requests -= num_requests
        self._ended.extend([time.monotonic()] * num_requests)
        self._forget()

    def _drain_seconds(self) -> float:
        """How long until half of what waits is done, at the rate of the last seconds."""
        self._forget()
        rate = max(1, len(self._ended)) / MEASURED_SECONDS
        return max(0, self.requests - self.seats) / rate / 2

    def _forget(self) -> None:
        """Drops what ended too long ago."""
        since = time.monotonic() - MEASURED_SECONDS
        while self._ended and self._ended[0] < since:
            self._ended.popleft()
