"""What is shown of the engines at work. Their threads copy numbers; what is made of these is made on another thread."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import ReferenceType, ref

from octavo import _native
from octavo.async_llm import AsyncLLM
from octavo.engine.memory import MemoryPlan, free_memory
from octavo.engine.view import MOST_REQUESTS, EngineView
from octavo.server.blocks_picture import picture
from octavo.server.models import SKILLS, ServedModel
from octavo.server.rates import rates_of, step_of, totals_of
from octavo.server.writing import dumps
from octavo.version import __version__

PATIENCE = 1.0  # seconds that an engine has for an answer: a step may be long
INLINE = 16384  # so much is written on the event loop: waking a thread would take longer
REQUEST = 64  # a request takes as long to write as so many blocks
MEMORY_SECONDS = 1.0  # how long what was measured of the machine's memory is told
FRESH = 0.025  # an event may have what was told so many seconds before
Json = dict[str, Any]
Look = tuple[AsyncLLM | None, bool]  # the engine that was looked at, and whether what is known of it is old
_PAGE = os.sysconf("SC_PAGE_SIZE")


class EngineRoom:
    """Looks at all engines for everyone who asks at the same time."""

    def __init__(self, models: Iterable[ServedModel]):
        self._models = models
        self._of_models: dict[ServedModel, _Window] = {}
        self._began = time.time()
        self._looking: asyncio.Task[bytes] | None = None
        self._seen, self._seen_at = b"", 0.0
        self._writer = ThreadPoolExecutor(1, "octavo-stats")
        self._memory: tuple[int, int] = (0, 0)  # that is free, and this process has
        self._measured_at = -MEMORY_SECONDS

    async def look(self, fresh_enough: float = 0.0) -> bytes:
        """The JSON of an EngineStatsAnswer, no older than so many seconds."""
        if self._seen and time.monotonic() - self._seen_at < fresh_enough:
            return self._seen
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return await asyncio.shield(self._looking)  # one who leaves takes it from nobody

    async def _look(self) -> bytes:
        windows = self._windows()
        looks = await asyncio.gather(*(window.look() for window in windows))
        if sum(window.size for window in windows) <= INLINE:
            self._seen = self._write(windows, looks)
        else:
            loop = asyncio.get_running_loop()
            self._seen = await loop.run_in_executor(self._writer, self._write, windows, looks)
        self._seen_at = time.monotonic()
        return self._seen

    def _windows(self) -> list[_Window]:
        """Of all models that there are now."""
        self._of_models = {model: self._of_models.get(model) or _Window(model) for model in self._models}
        return list(self._of_models.values())

    def _write(self, windows: list[_Window], looks: list[Look]) -> bytes:
        models = [window.show(look) for window, look in zip(windows, looks, strict=True)]
        now = time.time()
        answer = {"time": now, "uptime": now - self._began, "version": __version__}
        return dumps({**answer, "machine": self._machine(), "models": models})

    def _machine(self) -> Json:
        if (now := time.monotonic()) - self._measured_at >= MEMORY_SECONDS:
            self._memory, self._measured_at = _memory(), now
        device = next((model.config.device for model in self._models), "cpu")
        free, in_memory = self._memory
        return {
            "device": device,
            "threads": _native.num_threads(),
            "isa": _native.isa(),
            "memory_free": free,
            "memory_process": in_memory,
        }


class _Window:
    """One model as it is seen: the last view of its engine, and the small numbers of its requests."""

    def __init__(self, model: ServedModel):
        self.model = model
        self._seen: ReferenceType[AsyncLLM] | None = None  # whose view that is; it may be unloaded meanwhile
        self._view: EngineView | None = None
        self._numbers: dict[str, int] = {}

    @property
    def size(self) -> int:
        """How much there is to write, in blocks."""
        return 0 if self._view is None else self._view.num_blocks + REQUEST * len(self._view.requests)

    async def look(self) -> Look:
        """Gets a view of the engine; returns whose, and whether there was none in time, so that the last has to do."""
        llm = self.model.llm
        if llm is None or self._seen is None or self._seen() is not llm:
            self._seen, self._view = None if llm is None else ref(llm), None
        if llm is None:
            return None, False
        try:
            async with asyncio.timeout(PATIENCE):
                self._view = await asyncio.shield(asyncio.wrap_future(llm.driver.view()))
        except (TimeoutError, asyncio.CancelledError):
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return llm, True
        return llm, False

    def show(self, look: Look) -> Json:
        """The JSON of a ModelStats."""
        llm, is_stale = look
        model, view, stats = self.model, self._view, self.model.stats()
        loaded = None if llm is None else llm.model
        skills = [skill for skill in SKILLS if skill in (model.skills or ())]
        requests = () if view is None else view.requests
        self._number(request.id for request in requests)
        num_requests = 0 if view is None else view.num_running + view.num_waiting
        plan = loaded.plan if loaded is not None and loaded.plan.kv_cache > 0 else None
        return {
            "id": model.id,
            "state": "failed" if llm is not None and llm.driver.given_up else model.status.value,
            "phase": model.phase,
            "pinned": model.pinned,
            "kind": _kind(skills),
            "skills": skills,
            "max_model_len": model.max_model_len,
            "max_num_seqs": model.config.max_num_seqs,
            "running": stats.running if view is None else view.num_running,
            "waiting": stats.waiting if view is None else view.num_waiting,
            "queued_tokens": sum(max(0, request.prompt_tokens - request.computed_tokens) for request in requests),
            "stale": is_stale,
            "kv": None if view is None or plan is None else self._kv(view, plan),
            "requests": [] if view is None else self._requests(view),
            "more_requests": max(0, num_requests - MOST_REQUESTS),
            "rates": rates_of(stats, () if view is None else view.records, time.monotonic()),
            "totals": totals_of(stats),
            "step": step_of(stats, () if view is None else view.records),
            "preemptions": stats.preemptions,
            "restarts": 0 if llm is None else llm.driver.num_restarts,
        }

    def _number(self, ids: Iterable[str]) -> None:
        """Gives those that are new the smallest numbers that nobody has."""
        living = list(ids)
        self._numbers = {name: self._numbers[name] for name in living if name in self._numbers}
        taken, n = set(self._numbers.values()), 1
        for name in living:
            if name not in self._numbers:
                while n in taken:
                    n += 1
                self._numbers[name] = n
                n += 1

    def _kv(self, view: EngineView, plan: MemoryPlan) -> Json:
        owners = {self._numbers[request.id]: request.tables for request in view.requests if request.tables}
        per_cell, cells = picture(view, owners)
        return {
            "block_size": plan.block_size,
            "num_blocks": view.num_blocks,
            "used": view.num_blocks - len(view.free) - view.num_cached,
            "cached": view.num_cached,
            "free": len(view.free),
            "bytes": plan.kv_cache,
            "blocks_per_cell": per_cell,
            "blocks": cells,
        }

    def _requests(self, view: EngineView) -> list[Json]:
        now = time.monotonic()
        return [
            {
                "n": self._numbers[request.id],
                "id": request.id,
                "state": request.state,
                "age": now - request.arrival,
                "prompt_tokens": request.prompt_tokens,
                "computed_tokens": request.computed_tokens,
                "cached_tokens": request.cached_tokens,
                "output_tokens": request.output_tokens,
                "max_tokens": request.max_tokens,
                "blocks": len(set().union(*request.tables)),
                "sequences": request.sequences,
                "priority": request.priority,
            }
            for request in view.requests[:MOST_REQUESTS]
        ]


def _memory() -> tuple[int, int]:
    """Bytes that are free, and those that this process has."""
    with open("/proc/self/statm") as file:
        return free_memory(), int(file.read().split()[1]) * _PAGE


def _kind(skills: list[str]) -> str | None:
    if "transcribe" in skills:
        return "speech"
    return "text" if "text" in skills else "embed" if skills else None
