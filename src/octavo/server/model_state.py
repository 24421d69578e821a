"""The states of a model between its files and its requests, and the ways from one to another."""

from __future__ import annotations

import logging
from enum import StrEnum

from octavo.errors import OctavoError

logger = logging.getLogger("octavo.server")
RETRY_SECONDS = 5.0  # a model that could not be loaded is tried again after so many


class Status(StrEnum):
    """`UNLOADED` models are loaded by the next request; `SLEEPING` ones are woken by it."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    SLEEPING = "sleeping"
    FAILED = "failed"


_WAYS = {
    Status.UNLOADED: {Status.LOADING, Status.FAILED},
    Status.LOADING: {Status.READY, Status.FAILED, Status.UNLOADED},
    Status.READY: {Status.SLEEPING, Status.UNLOADED, Status.LOADING},
    Status.SLEEPING: {Status.READY, Status.LOADING, Status.UNLOADED, Status.FAILED},
    Status.FAILED: {Status.LOADING, Status.UNLOADED, Status.FAILED},
}


class ModelState:
    """Where a model is on its way, what it is doing there in words, and why it failed."""

    def __init__(self, name: str):
        self._name = name
        self.status = Status.UNLOADED
        self.phase = "waiting"  # for people: finding the model, reading headers, loading weights, ready, draining, …
        self.failure: OctavoError | None = None
        self.retry_at = 0.0  # by the clock of who failed it
        self.sleep_level = 0

    def become(self, status: Status, phase: str | None = None) -> None:
        assert status is self.status or status in _WAYS[self.status], f"{self.status} -> {status}"
        self.status, self.phase = status, phase or status.value
        if status is not Status.FAILED:
            self.failure = None
        if status is not Status.SLEEPING:
            self.sleep_level = 0

    def sleep(self, level: int) -> None:
        self.become(Status.SLEEPING)
        self.sleep_level = level

    def fail(self, error: OctavoError, now: float) -> None:
        """It could not be loaded; until `retry_at` nobody needs to try again."""
        self.become(Status.FAILED)
        self.failure, self.retry_at = error, now + RETRY_SECONDS
        logger.error("model %s failed: %s", self._name, error)

    def report(self, phase: str) -> None:
        self.phase = phase
        logger.info("model %s: %s", self._name, phase)
