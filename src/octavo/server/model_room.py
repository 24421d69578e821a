"""Room for models: what a model will take is kept free for it, and others are unloaded for that."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from octavo.engine.memory import show
from octavo.server.instance import ModelInstance
from octavo.server.model_state import Status
from octavo.server.models import ModelRegistry, ServedModel

logger = logging.getLogger("octavo.server")
PATIENCE = 10.0  # a model that has waited for room so long has others take no further requests until it has it


class ModelRoom:
    """The budget of memory as models come and go. `unload` unloads an idle model that nobody does anything with."""

    def __init__(
        self, models: ModelRegistry, clock: Callable[[], float], unload: Callable[[ServedModel], Awaitable[None]]
    ):
        self._models, self._clock, self._unload = models, clock, unload
        self._in_line: deque[ServedModel] = deque()  # who waits for room, the first one first
        self._news = asyncio.Event()

    @property
    def has_queue(self) -> bool:
        """Whether anyone waits for room."""
        return bool(self._in_line)

    def is_wanted_by(self, model: ServedModel) -> bool:
        """Whether it waits for room."""
        return model in self._in_line

    async def make(self, model: ServedModel, size: int) -> None:
        """Reserves `size` bytes for a model beside what it holds, once others have left enough.

        Those that were used least recently are unloaded first, as many as are needed. Whoever has waited for long has
        the others finish what they have, and take nothing new.
        """
        began = self._clock()
        closed: list[ModelInstance] = []  # doors, for this one
        self._in_line.append(model)
        try:
            while not self._take_room(model, size):
                is_first = self._in_line[0] is model
                if is_first and (leaving := self._leaving(model, size)):
                    for other in leaving:
                        await self._unload(other)
                    continue
                waited = self._clock() - began
                if is_first and waited >= PATIENCE:
                    closed += self._close_doors(model, size)
                model.state.phase = self.scarcity(model)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.1, PATIENCE - waited) if is_first else None):
                        await self._news.wait()
        finally:
            self._in_line.remove(model)
            self._open_doors(closed)
            self.tell()

    def _take_room(self, model: ServedModel, size: int) -> bool:
        """Reserves it if it is there, and nobody before has waited for too long."""
        if size > self.free(model) or self._is_overtaking(model):
            return False
        model.reserved = size
        return True

    def _is_overtaking(self, model: ServedModel) -> bool:
        first = self._in_line[0]
        return first is not model and any(
            not each.is_ready and each.instance is not None and each.status is not Status.SLEEPING
            for each in self._models
        )

    def free(self, model: ServedModel) -> int:
        """Bytes of the budget that no model of its device has."""
        assert self._models.budget is not None
        return self._models.budget.total(model.config) - self._models.held(model.config.device)

    def _others(self, model: ServedModel) -> list[ServedModel]:
        """Those that may be unloaded for it, the one that was used least recently first."""
        device = model.config.device
        others = [each for each in self._models if each is not model and each.config.device == device]
        return sorted((each for each in others if each.held and not each.pinned), key=lambda each: each.used_at)

    def _leaving(self, model: ServedModel, size: int) -> list[ServedModel]:
        """The idle ones that have to go so that `size` bytes are free; none if that is not enough."""
        idle = [each for each in self._others(model) if each.is_idle and not each.lock.locked()]
        missing = size - self.free(model)
        chosen: list[ServedModel] = []
        for each in idle:
            if sum(one.held for one in chosen) < missing:
                chosen.append(each)
        if sum(one.held for one in chosen) < missing:
            return []
        for each in list(chosen):  # one that was taken first may not be needed beside a larger one
            if sum(one.held for one in chosen) - each.held >= missing:
                chosen.remove(each)
        return chosen

    def _close_doors(self, model: ServedModel, size: int) -> list[ModelInstance]:
        """Has as many of the others take no further requests as leave enough room when theirs are done.

        Each has its time first, and those who have waited for it are let in. Returns those that were open.
        """
        closed: list[ModelInstance] = []
        missing = size - self.free(model)
        for each in self._others(model):
            if missing <= 0:
                break
            missing -= each.held
            had_its_time = self._clock() - each.ready_at >= PATIENCE and not each.num_waiting
            if each.instance is not None and each.instance.is_open and had_its_time:
                each.instance.is_open = False
                closed.append(each.instance)
                each.state.phase = f"finishing its requests, to make room for {model.id}"
                logger.info("model %s: %s", each.id, each.phase)
        return closed

    def _open_doors(self, closed: list[ModelInstance]) -> None:
        """Those that are still there were not needed, or nobody waits for their room any more."""
        for each in self._models:
            if each.instance in closed and not each.lock.locked():
                each.instance.is_open = True
                each.state.become(Status.READY)

    def scarcity(self, model: ServedModel) -> str:
        """The numbers, and who holds what."""
        size = model.prospect.size if model.prospect is not None else 0
        holders = [f"{each.id} {show(each.held)} ({_use(each)})" for each in self._models if each.held]
        total = show(self._models.budget.total(model.config)) if self._models.budget is not None else "all"
        held = ", ".join(holders) or "nobody"
        return f"no room for {model.id}, which takes {show(size)} of {total}: {held}"

    def tell(self) -> None:
        """Those who wait for room look again."""
        self._news.set()
        self._news = asyncio.Event()


def _use(model: ServedModel) -> str:
    if model.pinned:
        return "pinned"
    users = sum(one.num_users for one in (*model.retired, model.instance) if one is not None)
    return f"{users} requests" if users else "loading" if model.reserved else "idle"
