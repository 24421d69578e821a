"""The engine's thread: it runs steps, and goes on after one that failed."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace

from octavo.engine.engine import Engine
from octavo.engine.view import EngineView, take_view
from octavo.errors import EngineFailedError, OctavoError, RequestAbortedError, RequestFailedError
from octavo.prefix_store.base import StoreStats
from octavo.request import Prompt, RequestOutput
from octavo.sampling_params import SamplingParams

logger = logging.getLogger("octavo")

Deliver = Callable[[RequestOutput | OctavoError], None]
MAX_FAILURES = 5  # steps that fail one after another before the engine is given up
FIRST_PAUSE = 0.5  # seconds until the restart; twice as long after each further failure
STEP_LIMIT = 10.0  # seconds that a step may take before it counts as hung, unless earlier ones took long too


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine's state at one moment, and counts since it was made, over all restarts."""

    running: int = 0
    waiting: int = 0
    block_usage: float = 0.0  # share of the KV blocks in use, 0 to 1
    prompt_tokens: int = 0  # computed, so without those that the prefix cache had
    output_tokens: int = 0
    prefix_queries: int = 0  # tokens looked up in the prefix cache
    prefix_hits: int = 0
    preemptions: int = 0
    finished: int = 0  # requests that have ended
    steps: Mapping[int, int] = field(default_factory=dict)  # how many had so many tokens
    disk: StoreStats = field(default_factory=StoreStats)  # of the prefix cache on disk

    def plus(self, other: EngineStats) -> EngineStats:
        """Both together; of the blocks, the larger share."""
        usage, steps = max(self.block_usage, other.block_usage), Counter(self.steps) + Counter(other.steps)
        names = [one.name for one in fields(self) if one.name not in ("block_usage", "steps", "disk")]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return EngineStats(**sums, block_usage=usage, steps=steps, disk=self.disk.plus(other.disk))

    @property
    def counts(self) -> EngineStats:
        """What stays of it once the engine is gone."""
        return replace(self, running=0, waiting=0, block_usage=0.0, disk=replace(self.disk, size=0))


class Driver:
    """Owns an engine. Other threads leave it messages; it sleeps while there is nothing to do.

    When a step fails as a whole, every request in it ends with EngineFailedError, and a fresh engine over the same
    weights takes the next ones. After MAX_FAILURES in a row it is given up: everything is refused from then on.
    """

    def __init__(self, make_engine: Callable[[], Engine]):
        self._make_engine = make_engine
        self._engine = make_engine()
        self._messages: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._listeners: dict[str, Deliver] = {}
        self._next_id = 0
        self._closing = False
        self._is_asleep = False  # it waits for messages, and `_wake` keeps it there
        self._asked: Future[EngineView] | None = None  # who wants to see the engine after this step
        self._past = EngineStats()  # counts of engines that failed
        self._step_began: float | None = None
        self._longest_step = 0.0
        self.num_restarts = 0
        self._num_failures = 0  # in a row
        self._restarting = False
        self._thread = threading.Thread(target=self._work, name="octavo-engine", daemon=True)
        self._thread.start()

    def new_id(self) -> str:
        with self._wake:
            self._next_id += 1
            return f"request-{self._next_id}"

    def submit(self, name: str, prompt: Prompt, params: SamplingParams, priority: int, deliver: Deliver) -> None:
        self._post(lambda: self._submit(name, prompt, params, priority, deliver))

    def abort(self, name: str) -> None:
        if not self._closing:
            self._post(lambda: self._abort(name))

    def cut(self, name: str) -> None:
        """Ends a request with what it has generated: its last output is delivered like any other."""
        if not self._closing:
            self._post(lambda: self._cut(name))

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:  # where the garbage collector runs, nobody chooses
            self._thread.join()

    @property
    def given_up(self) -> bool:
        return self._num_failures >= MAX_FAILURES

    def ailment(self) -> str | None:
        """What is wrong with the engine right now, for a liveness probe; None if it is well."""
        if not self._thread.is_alive() and not self._closing:
            return "the engine's thread has ended"
        if self.given_up:
            return f"the engine was given up after {self._num_failures} failed steps"
        if self._restarting:
            return "the engine failed and is being restarted"
        began = self._step_began
        seconds = 0.0 if began is None else time.monotonic() - began
        if seconds > max(STEP_LIMIT, 3 * self._longest_step):
            return f"a step has been running for {seconds:.0f} s"
        return None

    def renew(self, meanwhile: Callable[[], None]) -> None:
        """Waits for an engine over empty blocks, before which `meanwhile` is called; requests that run end.

        Raises what `meanwhile` raises.
        """
        done: Future[None] = Future()

        def renew() -> None:
            try:
                for name in list(self._engine.jobs):
                    self._abort(name)
                self._engine.settle()
                meanwhile()
                self._past = self.stats()
                self._engine = self._make_engine()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._post(renew)
        done.result()

    def stats(self) -> EngineStats:
        """May be called from any thread; numbers of one step may be seen beside those of the next."""
        past, scheduler = self._past, self._engine.scheduler
        return EngineStats(
            running=scheduler.num_running,
            waiting=scheduler.num_waiting + len(self._messages),
            block_usage=scheduler.block_usage,
            prompt_tokens=past.prompt_tokens + scheduler.num_prompt_tokens,
            output_tokens=past.output_tokens + scheduler.num_output_tokens,
            prefix_queries=past.prefix_queries + scheduler.num_prefix_queries,
            prefix_hits=past.prefix_hits + scheduler.num_prefix_hits,
            preemptions=past.preemptions + scheduler.num_preemptions,
            finished=past.finished + self._engine.num_finished,
            steps=Counter(past.steps) + Counter(dict(scheduler.steps)),  # a copy: the engine's thread goes on counting
            disk=self._engine.disk_stats,
        )

    def view(self) -> Future[EngineView]:
        """What the engine looks like after the step that runs; all who ask during one share an answer.

        An idle engine is looked at where the caller is, and not woken. While a step hangs there is no answer; once the
        driver is closed the future is cancelled.
        """
        with self._wake:
            if self._asked is None:
                self._asked = Future()
            asked = self._asked
            if self._is_asleep:
                self._answer()
            elif self._closing:
                asked.cancel()
        return asked

    def _answer(self) -> None:
        """Shows the engine to those who asked. It must not be in a step; the caller has `_wake`."""
        asked, self._asked = self._asked, None
        if asked is None or not asked.set_running_or_notify_cancel():
            return
        try:
            asked.set_result(take_view(self._engine))
        except Exception as error:  # who watches is told; nothing else is disturbed
            asked.set_exception(error)

    def _post(self, message: Callable[[], None]) -> None:
        with self._wake:
            if self._closing:
                raise RequestAbortedError("the engine is closed")
            self._messages.append(message)
            self._wake.notify()

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                self._read_messages()
                self._step()
            except Exception as error:
                self._restart(error)
            if self._asked is not None:
                with self._wake:
                    self._answer()
        if self._asked is not None:
            self._asked.cancel()
        self._read_messages()  # those that came last are told like the others
        for name in list(self._engine.jobs):
            self._end(name, RequestAbortedError("the engine was closed"))
        self._engine.settle()

    def _wait_for_work(self) -> bool:
        """False once it is to end."""
        with self._wake:
            while not (self._messages or self._engine.has_work or self._closing):
                self._is_asleep = True
                self._wake.wait()
                self._is_asleep = False
            return not self._closing

    def _read_messages(self) -> None:
        while self._messages:
            self._messages.popleft()()

    def _step(self) -> None:
        if not self._engine.has_work:
            return
        self._step_began = began = time.monotonic()
        for output in self._engine.step():
            self._deliver(output)
        self._longest_step = max(self._longest_step, time.monotonic() - began)
        self._step_began = None
        self._num_failures = 0

    def _restart(self, error: Exception) -> None:
        """Tells everyone in the step, and starts over with empty blocks: what they hold may be half written."""
        self._num_failures += 1
        self._restarting = True
        logger.error("a step failed; restart %d", self.num_restarts + 1, exc_info=error)
        self._past, self._step_began = self.stats(), None
        names = list(self._engine.jobs)
        self._engine = self._make_engine()
        for name in names:
            self._end(name, EngineFailedError(f"the engine failed: {error}"))
        self.num_restarts += 1
        if self.given_up:
            logger.critical("%d steps failed in a row: the engine is given up", self._num_failures)
        else:
            with self._wake:
                pause = FIRST_PAUSE * 2 ** (self._num_failures - 1)
                self._wake.wait_for(lambda: self._closing, pause)
            self._restarting = False  # whether it is well again, only the next step can show

    def _submit(self, name: str, prompt: Prompt, params: SamplingParams, priority: int, deliver: Deliver) -> None:
        try:
            if self.given_up:
                raise EngineFailedError("the engine failed and was given up")
            self._engine.submit(name, prompt, params, priority)
        except OctavoError as error:
            deliver(error)
        except Exception as error:
            logger.error("request %s could not begin", name, exc_info=error)
            deliver(RequestFailedError(f"the request could not begin: {type(error).__name__} inside Octavo"))
        else:
            self._listeners[name] = deliver

    def _abort(self, name: str) -> None:
        self._end(name, RequestAbortedError(f"request {name} was aborted"))

    def _cut(self, name: str) -> None:
        if output := self._engine.cut(name):
            self._deliver(output)

    def _end(self, name: str, error: OctavoError) -> None:
        self._engine.abort(name)
        if deliver := self._listeners.pop(name, None):
            deliver(error)

    def _deliver(self, output: RequestOutput) -> None:
        deliver = self._listeners.get(output.request_id)
        if output.finished:
            self._listeners.pop(output.request_id, None)
        if deliver is not None:
            deliver(output)
