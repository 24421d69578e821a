"""The models of a server: what each is called, in what state it is, and which of them a request means."""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from octavo.async_llm import AsyncLLM
from octavo.chat_formats.detect import check_parsers
from octavo.config import EngineConfig, log_notes
from octavo.engine.driver import EngineStats
from octavo.engine.memory import show
from octavo.errors import ConfigError, MemoryPlanError, OctavoError, did_you_mean
from octavo.plan.estimate import two_lines
from octavo.server.errors import HttpError, NotFoundError, UnavailableError
from octavo.server.instance import ModelInstance, skills_of
from octavo.server.limits import Queue
from octavo.server.metrics import ModelMetrics
from octavo.server.model_folder import ModelFolder
from octavo.server.model_state import ModelState, Status
from octavo.server.options import MOST, ModelSpec, ServerConfig
from octavo.server.prospect import MemoryBudget, Prospect, read_prospect
from octavo.weights.known import DEFAULT_MODEL, SHORT_NAMES, public_name

logger = logging.getLogger("octavo.server")
SHARE = 0.9  # all models together take this share of the free memory, where there is no budget
# What a model can do, as requests ask for it, and how that is said.
SKILLS = {
    "text": "answer text",
    "embed": "embed texts",
    "score": "score pairs of texts",
    "classify": "classify texts",
    "pool": "make vectors or classes of texts",
    "transcribe": "transcribe speech",
    "translate": "translate speech into English",
}


def served_names(spec: ModelSpec, reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that were given, a model's id first, and those that lead to it too unless another model has them."""
    given = dict.fromkeys((*(spec.names or (reference,)), *spec.aliases))
    path = PurePath(reference)
    # The last two parts of a path are often its name on the Hub; and tiny.en is openai/whisper-tiny.en.
    hub = ("/".join(path.parts[-2:]), SHORT_NAMES.get(path.name, reference))
    others = (reference, path.name, *hub, *(PurePath(name).name for name in given))
    return tuple(given), tuple(dict.fromkeys(name for name in others if name and name not in given))


class ServedModel:
    """One model: its names, its state, its instance while it is loaded, its queue and its metrics."""

    def __init__(self, spec: ModelSpec, config: EngineConfig, server: ServerConfig, budget: MemoryBudget | None = None):
        check_parsers(config.tool_call_parser, config.reasoning_parser)
        self.config, self._spec, self._budget = config, spec, budget
        self.names, self.implied_names = served_names(spec, public_name(config.model or DEFAULT_MODEL))
        self.tags = spec.tags
        self.created = int(time.time())
        self.state = ModelState(self.id)
        self.instance: ModelInstance | None = None  # that takes requests, or sleeps
        self.retired: list[ModelInstance] = []  # those that requests still run on
        self.prospect: Prospect | None = None  # once its headers were read
        self.reserved = 0  # bytes that are kept free for what is being loaded
        self.closing = 0  # bytes of instances that nobody uses any more, and that are not free yet
        self.queue: Queue = Queue(server.max_queued_requests, server.max_queued_tokens)
        self.background: Queue = Queue(MOST, MOST)  # of batches, which wait as long as they must
        self.metrics: ModelMetrics = ModelMetrics()
        self._is_pinned = spec.pin or bool({*self.names} & {*server.pin})
        self.usual_ttl = server.model_ttl if spec.ttl is None else spec.ttl
        self.ttl = self.usual_ttl  # seconds without a request, then it is unloaded; None: it never is
        self.kept = False  # whether a request has asked that it stays
        self.at_start = not spec.on_demand
        self.has_started = False  # whether it was ready once
        self.num_waiting = 0  # requests that wait for it to be loaded
        self.used_at = self.ready_at = 0.0  # by the clock of who unloads it
        self.last_used: float | None = None  # Unix time
        self.lock = asyncio.Lock()  # of whoever changes its state
        self._past = EngineStats()  # counts of instances that are gone

    @property
    def id(self) -> str:
        return self.names[0]

    @property
    def short_name(self) -> str:
        """The id without its folders, for those who may not know them."""
        return PurePath(self.id).name

    @property
    def folder(self) -> Path | None:
        """Where it was found, of a model that nobody has named."""
        return self._spec.found

    @property
    def phase(self) -> str:
        return self.state.phase

    @property
    def status(self) -> Status:
        return self.state.status

    @property
    def llm(self) -> AsyncLLM | None:
        """Its engine, while it is loaded or sleeps with its weights."""
        return None if (instance := self.instance) is None else instance.llm

    @property
    def pinned(self) -> bool:
        """Whether it stays loaded, whatever else is asked for."""
        return self._is_pinned or self.kept

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests right now."""
        return self.instance is not None and self.instance.is_open

    @property
    def is_starting(self) -> bool:
        """Whether the server's start is still about to load it."""
        return self.at_start and not self.has_started

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it or waits for it."""
        return self.instance is not None and not self.instance.num_users and not self.num_waiting

    @property
    def held(self) -> int:
        """Bytes that it takes or has yet to give back, and that are kept for it."""
        instances = [*self.retired, *([self.instance] if self.instance is not None else [])]
        return self.reserved + self.closing + sum(instance.held for instance in instances)

    @property
    def max_model_len(self) -> int | None:
        if (llm := self.llm) is not None:  # once: a thread may read this, too
            return llm.model.max_model_len
        return None if self.prospect is None else self.prospect.max_model_len

    @property
    def skills(self) -> frozenset[str] | None:
        """None while nobody knows."""
        if (llm := self.llm) is not None:
            return skills_of(llm)
        return None if self.prospect is None else self.prospect.skills

    def can(self, skill: str) -> bool:
        """Whether it can do one of SKILLS; of a model whose headers were not read nobody knows, so it may."""
        return self.status is not Status.FAILED if (skills := self.skills) is None else skill in skills

    def queue_of(self, is_background: bool) -> Queue:
        return self.background if is_background else self.queue

    def check_started(self) -> None:
        """Raises UnavailableError while the server's start is about to load it."""
        if self.is_starting:
            raise UnavailableError(f"the model {self.id} is not loaded yet: {self.phase}", "model_loading", 1)

    def inspect(self) -> Prospect:
        """Reads its headers. Blocks, and raises what loading raises."""
        self.prospect = read_prospect(self.config, self._budget, self._share)
        return self.prospect

    def make(self, prospect: Prospect | None = None) -> ModelInstance:
        """Loads an instance, which is nobody's yet. Blocks, and raises what loading raises."""
        begin = time.monotonic()
        usable = None if prospect is None else prospect.usable_now(self.config)
        llm = AsyncLLM.from_config(self.config, self.state.report, usable)
        instance = ModelInstance(self.id, llm, (self.queue, self.background), self.metrics)
        if instance.chat_format is not None:
            logger.info("model %s: %s", self.id, instance.chat_format)
        seconds = time.monotonic() - begin
        self.metrics.loads["ready"] += 1
        self.metrics.load_seconds += seconds
        logger.info("model %s loaded in %.2f s", self.id, seconds)
        for line in two_lines(llm.model, llm.model.plan):
            logger.info("model %s: %s", self.id, line)
        return instance

    def begin_with(self, instance: ModelInstance) -> None:
        """Takes requests from now on, with this instance."""
        self.queue.seats = self.background.seats = self.config.max_num_seqs
        self.instance, self.has_started = instance, True
        self.state.become(Status.READY)

    def forget(self, instance: ModelInstance) -> None:
        """An instance is to be closed: what it has counted stays."""
        self._past = self._past.plus(instance.stats().counts)
        if self.instance is instance:
            self.instance = None
            self.queue.seats = self.background.seats = 0  # until it is back, all wait
        if instance in self.retired:
            self.retired.remove(instance)

    def load(self) -> None:
        """Loads it at the start. Blocks, and raises what loading raises."""
        prospect = self.inspect() if self._budget is not None else None
        self.state.become(Status.LOADING)
        instance = self.make(prospect)
        instance.is_frozen = True
        self.begin_with(instance)

    def stats(self) -> EngineStats:
        found = self._past
        for instance in (*self.retired, self.instance):
            found = found if instance is None else found.plus(instance.stats())
        return found

    @property
    def _share(self) -> float | None:
        """The share of the budget that the user says it may have."""
        return self._spec.options.get("gpu_memory_utilization")


class ModelRegistry:
    """All models of a server. Raises ConfigError for bad options, or if two models share a name.

    `common` are the options of models that are found later.
    """

    def __init__(self, specs: Sequence[ModelSpec], server: ServerConfig, common: Mapping[str, object] | None = None):
        self._server, self._common = server, dict(common or {})
        by_demand = server.models_dir is not None or any(spec.on_demand for spec in specs)
        has_budget = by_demand or server.model_memory is not None
        self.budget = MemoryBudget(server.model_memory) if has_budget else None
        share = {} if has_budget else {"gpu_memory_utilization": SHARE / max(1, len(specs))}
        resolved = [EngineConfig.resolve({**share, **spec.options}) for spec in specs]
        log_notes(note for _, notes in resolved for note in notes)
        configs = [config for config, _ in resolved]
        self._models = [
            ServedModel(spec, config, server, self.budget) for spec, config in zip(specs, configs, strict=True)
        ]
        self._by_name: dict[str, ServedModel] = {}
        for model in self._models:
            for name in model.names:
                if self._by_name.setdefault(name, model) is not model:
                    raise ConfigError("served_model_name", name, "two models have this name; give one another name")
        self._find_names()
        self.folder = None if server.models_dir is None else ModelFolder(server.models_dir)
        if self.folder is not None:
            self.update(self.folder.scan(), loads_pinned=True)
        for name in server.pin:
            if name not in self._by_name:
                raise ConfigError("pin", name, f"no model has this name{did_you_mean(name, self._by_name)}")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str | None, skill: str | None = None) -> ServedModel:
        """The model that a request names, or the only one with the skill that it needs.

        Raises NotFoundError with the names there are, or HttpError with those that can do it.
        """
        able = [model for model in self._models if skill is None or model.can(skill)]
        chosen = [self._named(name)] if name else able
        if len(chosen) == 1 and (chosen[0] in able or chosen[0].status is Status.FAILED):
            return chosen[0]
        names = ", ".join(model.id for model in able)
        if len(chosen) < 2:
            who = f"The model {chosen[0].id!r} can't" if chosen else "No model that is served can"
            others = f" Served models that can: {names}" if able else " No other model is served that can"
            reason = f"{who} {SKILLS[skill or 'text']}.{others if chosen else ''}"
            raise HttpError(reason, "model", code="model_not_suitable")
        for model in able if skill else ():
            model.check_started()
        reason = f"several models are served: say which in 'model': {names}"
        raise NotFoundError(reason, "model", status=400, code="missing_field")

    def knows(self, name: str) -> bool:
        return name in self._by_name

    def _named(self, name: str) -> ServedModel:
        if name in self._by_name:
            return self._by_name[name]
        near = difflib.get_close_matches(name[:200], self._by_name, 1, 0.5)
        advice = f" Did you mean {near[0]!r}?" if near else ""
        served = ", ".join(model.id for model in self._models) or "none"
        reason = f"The model {name[:100]!r} does not exist.{advice} Served: {served}"
        raise NotFoundError(reason, "model", code="model_not_found")

    def update(self, found: Mapping[str, Path], loads_pinned: bool = False) -> None:
        """Takes what a folder of models has now: adds what is new, and drops what has gone.

        What has gone and is loaded stays until it is unloaded. Names that were given to other models stay theirs.
        """
        for model in [each for each in self._models if each.folder is not None and found.get(each.id) != each.folder]:
            if model.instance is None and not model.num_waiting and not model.lock.locked():
                self._models.remove(model)
        known = {name for model in self._models for name in model.names}
        for name, path in found.items():
            if name not in known:
                on_demand = not (loads_pinned and name in self._server.pin)
                options = {**self._common, "model": str(path)}
                spec = ModelSpec(options=options, names=(name,), on_demand=on_demand, found=path)
                config, _ = EngineConfig.resolve(spec.options)
                self._models.append(ServedModel(spec, config, self._server, self.budget))
        self._find_names()

    def _find_names(self) -> None:
        """Names that were given come first; then those that one model alone implies."""
        self._by_name = {name: model for model in self._models for name in model.names}
        implied = Counter(name for model in self._models for name in model.implied_names)
        for model in self._models:
            for name in model.implied_names:
                if implied[name] == 1:
                    self._by_name.setdefault(name, model)

    def held(self, device: str) -> int:
        """Bytes that models take of a device's memory."""
        return sum(model.held for model in self._models if model.config.device == device)

    def load_all(self) -> None:
        """Loads those that are to be there from the start, one after another. Raises OctavoError, which ends it."""
        try:
            for model in self._models:
                if model.at_start:
                    self._check_room(model)
                    model.load()
        except OctavoError:
            raise
        except Exception as error:
            logger.exception("loading failed")
            raise OctavoError(f"loading failed: {error}") from error

    def _check_room(self, model: ServedModel) -> None:
        """Raises MemoryPlanError where models that are loaded at the start do not fit together."""
        if self.budget is None:
            return
        total = self.budget.total(model.config)  # which is looked up before anything is loaded
        held, size = self.held(model.config.device), model.inspect().size
        if held + size > total:
            raise MemoryPlanError(
                f"the model {model.id} does not fit beside the others: it takes {show(size)}, they {show(held)} of "
                f"{show(total)}; have it loaded on demand (load: on-demand in --config), or give --model-memory more"
            )

    def ailment(self) -> str | None:
        """What is wrong with the engines right now; None if nothing is."""
        for model in self._models:
            if (llm := model.llm) is not None and (reason := llm.driver.ailment()) is not None:
                return f"{model.short_name}: {reason}"
        return None

    def close(self) -> None:
        for model in self._models:
            for instance in [*model.retired, *([model.instance] if model.instance is not None else [])]:
                instance.close()
