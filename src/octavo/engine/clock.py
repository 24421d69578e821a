"""What an engine's steps took, and what they did: noted as they run, read by whoever watches the engine."""

from __future__ import annotations

from collections import deque
from time import monotonic, perf_counter
from typing import NamedTuple

KEPT = 1024  # steps: the last second of a fast engine


class StepRecord(NamedTuple):
    """A step that has ended. Times are in seconds; `ended` is one of `time.monotonic()`.

    What is neither planning, running, committing nor landing is the rest of `seconds`: draws and masks are prepared,
    the step is written down for the executor. The four totals are those of the engine at the step's end.
    """

    ended: float
    seconds: float
    plan: float
    run: float
    commit: float
    land: float
    tokens: int
    sequences: int
    prompt_tokens: int
    output_tokens: int
    prefix_queries: int
    prefix_hits: int
    finished: int  # requests that have ended

    @property
    def other(self) -> float:
        return max(0.0, self.seconds - self.plan - self.run - self.commit - self.land)


class StepClock:
    """Measures the phases of a step: each call adds the time since the last one to a phase."""

    __slots__ = ("_began", "_mark", "commit", "land", "plan", "records", "run")

    def __init__(self) -> None:
        self.records: deque[StepRecord] = deque(maxlen=KEPT)
        self.start()

    def start(self) -> None:
        self.plan = self.run = self.commit = self.land = 0.0
        self._began = self._mark = perf_counter()

    def skip(self) -> None:
        """What was done since the last call is no phase of its own."""
        self._mark = perf_counter()

    def planned(self) -> None:
        mark, self._mark = self._mark, perf_counter()
        self.plan += self._mark - mark

    def ran(self) -> None:
        mark, self._mark = self._mark, perf_counter()
        self.run += self._mark - mark

    def committed(self) -> None:
        mark, self._mark = self._mark, perf_counter()
        self.commit += self._mark - mark

    def landed(self) -> None:
        mark, self._mark = self._mark, perf_counter()
        self.land += self._mark - mark

    def finish(self, tokens: int, sequences: int, *totals: int) -> None:
        """The step has ended; `totals` are those of a StepRecord, in its order."""
        seconds = perf_counter() - self._began
        times = (self.plan, self.run, self.commit, self.land)
        self.records.append(StepRecord(monotonic(), seconds, *times, tokens, sequences, *totals))
