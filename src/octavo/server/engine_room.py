"""What is shown of the engines at work. Their threads copy numbers; what is made of these is made on another thread."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

from octavo import _native
from octavo.engine.memory import free_memory
from octavo.engine.view import MOST_REQUESTS, EngineView
from octavo.server.blocks_picture import picture
from octavo.server.models import SKILLS, ServedModel
from octavo.server.rates import rates_of, step_of, totals_of
from octavo.server.writing import dumps
from octavo.speech.model import SpeechModel
from octavo.version import __version__

PATIENCE = 1.0  # seconds that an engine has for an answer: a step may be long
FRESH = 0.025  # an event may have what was told so many seconds before
Json = dict[str, Any]
_PAGE = os.sysconf("SC_PAGE_SIZE")


class EngineRoom:
    """Looks at all engines for everyone who asks at the same time."""

    def __init__(self, models: Iterable[ServedModel]):
        self._models = models
        self._of_models: WeakKeyDictionary[ServedModel, _Window] = WeakKeyDictionary()
        self._began = time.time()
        self._looking: asyncio.Task[bytes] | None = None
        self._seen, self._seen_at = b"", 0.0
        self._writer = ThreadPoolExecutor(1, "octavo-stats")

    async def look(self, fresh_enough: float = 0.0) -> bytes:
        """The JSON of an EngineStatsAnswer, no older than so many seconds."""
        if self._seen and time.monotonic() - self._seen_at < fresh_enough:
            return self._seen
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return await asyncio.shield(self._looking)  # one who leaves takes it from nobody

    async def _look(self) -> bytes:
        for model in self._models:
            self._of_models.setdefault(model, _Window(model))
        windows = [self._of_models[model] for model in self._models]
        stale = await asyncio.gather(*(window.look() for window in windows))
        loop = asyncio.get_running_loop()
        self._seen = await loop.run_in_executor(self._writer, self._write, windows, stale)
        self._seen_at = time.monotonic()
        return self._seen

    def _write(self, windows: list[_Window], stale: list[bool]) -> bytes:
        models = [window.show(is_stale) for window, is_stale in zip(windows, stale, strict=True)]
        now = time.time()
        answer = {"time": now, "uptime": now - self._began, "version": __version__}
        return dumps({**answer, "machine": _machine(windows), "models": models})


class _Window:
    """One model as it is seen: the last view of its engine, and the small numbers of its requests."""

    def __init__(self, model: ServedModel):
        self.model = model
        self._view: EngineView | None = None
        self._numbers: dict[str, int] = {}

    async def look(self) -> bool:
        """Gets a view of the engine; returns whether there was none in time, so that the last one has to do."""
        llm = self.model.llm
        if llm is None:
            self._view = None
            return False
        try:
            async with asyncio.timeout(PATIENCE):
                self._view = await asyncio.shield(asyncio.wrap_future(llm.driver.view()))
        except (TimeoutError, asyncio.CancelledError):
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return True
        return False

    def show(self, is_stale: bool) -> Json:
        """The JSON of a ModelStats."""
        model, view, stats = self.model, self._view, self.model.stats()
        loaded = None if model.llm is None else model.llm.model
        requests = () if view is None else view.requests
        self._number(request.id for request in requests)
        num_requests = 0 if view is None else view.num_running + view.num_waiting
        keeps = view is not None and loaded is not None and loaded.plan.kv_cache > 0
        return {
            "id": model.id,
            "state": _state(model),
            "phase": model.phase,
            "pinned": False,
            "kind": _kind(model),
            "skills": [skill for skill in SKILLS if model.llm is not None and model.can(skill)],
            "max_model_len": None if loaded is None else loaded.max_model_len,
            "max_num_seqs": model.config.max_num_seqs,
            "running": stats.running if view is None else view.num_running,
            "waiting": stats.waiting if view is None else view.num_waiting,
            "queued_tokens": sum(max(0, request.prompt_tokens - request.computed_tokens) for request in requests),
            "stale": is_stale,
            "kv": self._kv(view) if view is not None and keeps else None,
            "requests": [] if view is None else self._requests(view),
            "more_requests": max(0, num_requests - MOST_REQUESTS),
            "rates": rates_of(stats, () if view is None else view.records, time.monotonic()),
            "totals": totals_of(stats),
            "step": step_of(stats, () if view is None else view.records),
            "preemptions": stats.preemptions,
            "restarts": 0 if model.llm is None else model.llm.driver.num_restarts,
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

    def _kv(self, view: EngineView) -> Json:
        assert self.model.llm is not None
        plan = self.model.llm.model.plan
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


def _machine(windows: list[_Window]) -> Json:
    with open("/proc/self/statm") as file:
        in_memory = int(file.read().split()[1]) * _PAGE
    return {
        "device": windows[0].model.config.device if windows else "cpu",
        "threads": _native.num_threads(),
        "isa": _native.isa(),
        "memory_free": free_memory(),
        "memory_process": in_memory,
    }


def _state(model: ServedModel) -> str:
    if model.llm is None:
        return "loading"
    return "failed" if model.llm.driver.given_up else "ready"


def _kind(model: ServedModel) -> str | None:
    if model.llm is None:
        return None
    loaded = model.llm.model
    if isinstance(loaded.reader, SpeechModel):
        return "speech"
    return "text" if loaded.pooler is None else "embed"
