"""Models come and go: loaded by the first request, unloaded to make room or when nobody asks, put to sleep, reloaded.

All of it happens on the event loop; what takes long, on threads. Whoever changes the state of a model holds its lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from octavo.engine.memory import show
from octavo.errors import MemoryPlanError, OctavoError
from octavo.server.errors import DeadlineError, HttpError, UnavailableError
from octavo.server.instance import ModelInstance
from octavo.server.model_room import ModelRoom
from octavo.server.model_state import RETRY_SECONDS, Status
from octavo.server.models import ModelRegistry, ServedModel
from octavo.server.options import ServerConfig
from octavo.server.prospect import Prospect, is_local
from octavo.server.threads import give_memory_back, in_thread

logger = logging.getLogger("octavo.server")
GRACE_SECONDS = 2.0  # requests have so long to tell their clients that they were ended


class ModelControl:
    """Loads and unloads the models of a server. `clock` tells seconds."""

    def __init__(self, models: ModelRegistry, config: ServerConfig, clock: Callable[[], float] = time.monotonic):
        self._models, self._config, self._clock = models, config, clock
        self._tasks: dict[ServedModel, asyncio.Task[None]] = {}  # that bring models which requests wait for
        self._work: set[asyncio.Task[None]] = set()  # that goes on whoever leaves
        self._room = ModelRoom(models, clock, lambda model: asyncio.shield(self.begin(self._evict(model))))
        self._loading = asyncio.Lock()  # one at a time: two would be no faster, and take more memory
        self._looking = asyncio.Lock()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def find(self, name: str | None, skill: str | None = None) -> ServedModel:
        """As `ModelRegistry.find`, after another look where a name is not known."""
        if name and not self._models.knows(name):
            await self.refresh()
        return self._models.find(name, skill)

    async def acquire(self, model: ServedModel, seconds: float) -> ModelInstance:
        """The model's instance once it is ready, for a user who calls `release` later.

        Raises UnavailableError, DeadlineError after so many seconds, or HttpError for a model that can't be loaded.
        """
        if not model.is_ready:
            model.check_started()
            await self._wait_for(model, seconds)
        instance = model.instance
        assert instance is not None
        self._note_use(model)
        instance.released = partial(self._released, model)
        instance.use()
        return instance

    async def _wait_for(self, model: ServedModel, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        model.num_waiting += 1
        try:
            while not model.is_ready:
                self._check_failure(model)
                task = self._bringing(model)
                done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - loop.time()))
                if not done:
                    raise self._too_late(model, seconds)
                if task.cancelled():  # by the last of those who waited before
                    continue
                with suppress(OctavoError):  # it is the model's failure now
                    task.result()
        finally:
            model.num_waiting -= 1
            if not model.num_waiting and self._room.is_wanted_by(model) and model in self._tasks:
                self._tasks[model].cancel()  # nobody waits for the room any more

    def _check_failure(self, model: ServedModel) -> None:
        """Raises what tells why a model could not be loaded, until it is time to try again."""
        failure, pause = model.state.failure, model.state.retry_at - self._clock()
        if failure is None or pause <= 0:
            return
        if isinstance(failure, MemoryPlanError):
            raise HttpError(f"the model {model.id}: {failure}", "model", code="model_does_not_fit")
        raise UnavailableError(f"the model {model.id} could not be loaded: {failure}", "model_failed", pause)

    def _too_late(self, model: ServedModel, seconds: float) -> OctavoError:
        if not self._room.is_wanted_by(model):
            return DeadlineError(f"the model {model.id} was not loaded within {seconds:g} s: {model.phase}")
        return UnavailableError(f"{self._room.scarcity(model)}; waited {seconds:g} s", "no_room_for_model", 5)

    def _bringing(self, model: ServedModel) -> asyncio.Task[None]:
        """The task that makes it ready, which goes on whoever leaves."""
        task = self._tasks.get(model)
        if task is None:
            task = self._tasks[model] = asyncio.get_running_loop().create_task(self._bring(model))
            task.add_done_callback(lambda done: self._forget_task(model, done))
        return task

    def _forget_task(self, model: ServedModel, task: asyncio.Task[None]) -> None:
        if self._tasks.get(model) is task:
            del self._tasks[model]
        if not task.cancelled():
            task.exception()  # which waiters were told, if there were any

    async def _bring(self, model: ServedModel) -> None:
        async with model.lock:
            if model.is_ready:
                return
            # One that sleeps wakes, unless others wait for room: they might wait for that of its weights.
            if model.status is Status.SLEEPING and model.instance is not None and not self._room.has_queue:
                await self._rouse(model)
                return
            if model.instance is not None:  # it takes no requests, and another one gets its room
                await self._retire(model, model.instance, None, "room")
            await self._load(model)

    async def _load(self, model: ServedModel) -> None:
        """Makes an unloaded model ready. Raises OctavoError, after which it has failed."""
        with self._failing(model):
            model.state.become(Status.LOADING, "reading headers")
            prospect = await self._inspect(model)
            try:
                if prospect is not None:
                    await self._room.make(model, prospect.size)
                instance = await self._make(model, prospect)
            finally:
                model.reserved = 0
                self._room.tell()
            model.begin_with(instance)
        model.ready_at = self._clock()
        self._note_use(model)

    @contextmanager
    def _failing(self, model: ServedModel) -> Iterator[None]:
        """Whatever goes wrong inside is the model's failure. Raises OctavoError."""
        try:
            yield
        except asyncio.CancelledError:
            model.state.become(Status.UNLOADED)
            raise
        except Exception as error:
            model.metrics.loads["failed"] += 1
            known = error if isinstance(error, OctavoError) else OctavoError(f"{type(error).__name__} inside Octavo")
            if known is not error:
                logger.exception("model %s could not be loaded", model.id)
            model.state.fail(known, self._clock())
            raise known from error

    async def _inspect(self, model: ServedModel) -> Prospect | None:
        return await in_thread(model.inspect) if self._models.budget is not None else None

    async def _make(self, model: ServedModel, prospect: Prospect | None) -> ModelInstance:
        async with self._loading:
            try:
                return await in_thread(lambda: model.make(prospect))
            except MemoryPlanError as error:  # it fits into what models may take, but others have it now
                raise UnavailableError(str(error), "no_memory", RETRY_SECONDS) from error

    def _released(self, model: ServedModel) -> None:
        self._note_use(model)
        self._room.tell()

    def _note_use(self, model: ServedModel) -> None:
        model.used_at, model.last_used = self._clock(), time.time()

    # -- what administrators ask for ---------------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Something that goes on whoever leaves."""
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # which was told, or is the model's failure

    async def bring(self, model: ServedModel, seconds: float) -> None:
        """Makes it ready. Raises what `acquire` raises."""
        (await self.acquire(model, seconds)).release()

    def keep(self, model: ServedModel, seconds: float | None) -> None:
        """How long it stays after its last request: None as the server's operator says, below 0 for ever.

        It holds until the model is unloaded, or somebody says something else. What is pinned stays.
        """
        if self._config.model_control:
            model.kept, model.ttl = (seconds is not None and seconds < 0), model.usual_ttl
            if seconds is not None:
                model.ttl = None if seconds < 0 else seconds

    async def unload(self, model: ServedModel, force: bool = False) -> None:
        """Its memory is free afterwards. Requests that run may finish first, or are ended with `force`.

        Further requests wait, and load it again. Raises UnavailableError while the server's start loads it.
        """
        model.check_started()
        async with model.lock:
            seconds = 0.0 if force else self._config.shutdown_timeout
            for instance in list(model.retired):
                await self._retire(model, instance, seconds, "request")
            if model.instance is not None:
                await self._unload(model, seconds, "request")
            else:
                model.state.become(Status.UNLOADED)

    async def sleep(self, model: ServedModel, level: int = 1) -> None:
        """Gives back the memory of its KV cache (level 1), or of its weights, too (level 2), once requests are done.

        Raises UnavailableError for a model that is not loaded, UnsupportedError for a level that it does not have.
        """
        model.check_started()
        async with model.lock:
            instance = model.instance
            if instance is None and model.status is not Status.SLEEPING:
                raise HttpError(f"the model {model.id} is not loaded", "model", code="model_not_loaded")
            if instance is None or (model.status is Status.SLEEPING and level == 1):
                return
            if level == 2:
                await self._retire(model, instance, self._config.shutdown_timeout, "sleep")
            else:
                await self._drain(model, instance, self._config.shutdown_timeout)
                try:
                    engine = instance.engine
                    await in_thread(lambda: engine.driver.renew(engine.model.executor.give_back))
                except OctavoError:
                    instance.is_open = True
                    model.state.become(Status.READY)
                    raise
                instance.held = instance.engine.model.plan.weights
            model.state.sleep(level)
            self._room.tell()
            logger.info("model %s sleeps, level %d", model.id, level)

    async def _rouse(self, model: ServedModel) -> None:
        """Makes a model ready whose weights are still there."""
        instance = model.instance
        assert instance is not None
        plan = instance.engine.model.plan
        if self._models.budget is not None:
            try:
                await self._room.make(model, plan.total - instance.held)
            finally:
                model.reserved = 0
        instance.held, instance.is_open = plan.total, True
        model.begin_with(instance)
        model.ready_at = self._clock()
        logger.info("model %s is awake", model.id)

    async def reload(self, model: ServedModel) -> None:
        """Loads the model's files anew; no other model is touched.

        The old instance answers until the new one is there, if the memory is enough for both; otherwise it finishes
        its requests first, and new ones wait. Raises OctavoError where the files can't be loaded: then the old instance
        goes on, unless it had to go first.
        """
        model.check_started()
        async with model.lock:
            old = model.instance
            if old is None or model.status is Status.SLEEPING:
                if old is not None:
                    await self._retire(model, old, None, "reload")
                await self._load(model)
                return
            try:
                prospect = await in_thread(model.inspect)  # which also says whether the files can be read at all
            except MemoryPlanError:
                if self._models.budget is not None:
                    raise
                prospect = None  # there may be room once the old one is gone
            except Exception:
                model.metrics.loads["failed"] += 1
                raise
            if prospect is None or not self._fits_beside(model, prospect, old):
                await self._retire(model, old, self._config.shutdown_timeout, "reload")
                await self._load(model)
                return
            model.reserved = prospect.size
            try:
                instance = await self._make(model, prospect)
            except BaseException:
                model.metrics.loads["failed"] += 1
                model.state.phase = model.status.value
                raise
            finally:
                model.reserved = 0
            old.is_open = False
            model.retired.append(old)
            model.begin_with(instance)
            self.begin(self._close(model, old, None, "reload"))

    def _fits_beside(self, model: ServedModel, prospect: Prospect, old: ModelInstance) -> bool:
        """Whether there is room for the new instance beside the old one, with a KV cache that is no smaller."""
        if self._models.budget is not None:
            return prospect.size <= self._room.free(model)
        return prospect.plan.kv_cache >= old.engine.model.plan.kv_cache

    # -- the way out -------------------------------------------------------------------------------------------------

    async def _evict(self, model: ServedModel) -> None:
        """Unloads it for another one if it is idle, and nobody does anything with it.

        Nobody waits for its lock: whoever has that may wait for the same room.
        """
        if model.is_idle and not model.lock.locked():
            async with model.lock:
                await self._unload(model, 0.0, "room")

    async def _unload(self, model: ServedModel, seconds: float | None, reason: str) -> None:
        """Of a model whose lock is held, with an instance."""
        assert model.instance is not None
        await self._retire(model, model.instance, seconds, reason)
        model.state.become(Status.UNLOADED)
        model.kept, model.ttl = False, model.usual_ttl

    async def _retire(self, model: ServedModel, instance: ModelInstance, seconds: float | None, reason: str) -> None:
        await self._drain(model, instance, seconds)
        await self._close(model, instance, 0.0, reason)

    async def _drain(self, model: ServedModel, instance: ModelInstance, seconds: float | None) -> None:
        """Lets nobody in, and waits until all have left; those who have not after so many seconds are ended."""
        instance.is_open = False
        if instance.num_users:
            model.state.phase = f"finishing {instance.num_users} requests"
        if await instance.wait_idle(seconds):
            return
        for fail in list(instance.active):
            fail(instance.unloaded_error)
        await instance.wait_idle(GRACE_SECONDS)

    async def _close(self, model: ServedModel, instance: ModelInstance, seconds: float | None, reason: str) -> None:
        await instance.wait_idle(seconds)
        if instance.closing is None:
            model.closing += instance.held
            model.forget(instance)
            instance.closing = self.begin(self._give_back(model, instance, instance.held, reason))
        await asyncio.shield(instance.closing)

    async def _give_back(self, model: ServedModel, instance: ModelInstance, held: int, reason: str) -> None:
        """Frees what a forgotten instance held, which may take seconds; until then it is nobody else's."""
        try:
            await in_thread(lambda: give_memory_back(instance.close, instance.is_frozen))
        finally:
            model.closing -= held
            self._room.tell()
        model.metrics.unloads[reason] += 1
        logger.info("model %s unloaded (%s), which held %s", model.id, reason, show(held))

    # -- what happens by itself --------------------------------------------------------------------------------------

    async def watch(self, seconds: float = 1.0) -> None:
        """Unloads what nobody has asked for in its time; forever."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.expire()
            except Exception:
                logger.exception("a model could not be unloaded")

    async def expire(self) -> None:
        """Unloads idle models whose time to live is over."""
        for model in list(self._models):
            if self._is_expired(model) and not model.lock.locked():
                async with model.lock:
                    if self._is_expired(model):
                        await self._unload(model, 0.0, "idle")

    def _is_expired(self, model: ServedModel) -> bool:
        if model.ttl is None or model.pinned or not model.is_idle:
            return False
        model.used_at = model.used_at or self._clock()  # of what the start has loaded
        return self._clock() - model.used_at >= model.ttl

    async def refresh(self) -> None:
        """Looks for models that came and went, and reads the headers of those that are new or were changed."""
        async with self._looking:
            if (folder := self._models.folder) is not None:
                self._models.update(await in_thread(folder.scan))
            for model in [each for each in self._models if not each.at_start and is_local(each.config)]:
                if not model.lock.locked():  # whoever has it reads the headers, or has no need of them
                    async with model.lock:
                        await self._look_at(model)

    async def _look_at(self, model: ServedModel) -> None:
        """Reads the headers of a model whose lock is held, if nobody knows them."""
        may_have_changed = model.status is Status.FAILED and self._clock() >= model.state.retry_at
        if model.prospect is not None or not (model.status is Status.UNLOADED or may_have_changed):
            return
        try:
            await in_thread(model.inspect)
            if model.status is Status.FAILED:
                model.state.become(Status.UNLOADED)
        except OctavoError as error:
            model.state.fail(error, self._clock())
        except Exception as error:
            logger.exception("the headers of model %s can't be read", model.id)
            model.state.fail(OctavoError(f"{type(error).__name__} inside Octavo"), self._clock())
