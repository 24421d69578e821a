"""What a model will be and take, read from its headers before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from octavo.config import EngineConfig
from octavo.engine.advice import plan_or_advise
from octavo.engine.backend import backend_of
from octavo.engine.memory import MemoryPlan
from octavo.engine.planning import PlannedModel, plan_model, select_machine
from octavo.errors import MemoryPlanError
from octavo.models import open_model
from octavo.weights import resolve

FREE_SHARE = 0.9  # of the memory that is free at the start, which is the budget unless one is given
CACHE_PART = 4  # the KV cache of a model takes at most one part in so many of the budget, unless one request needs more
ENGLISH_ONLY = 51864  # tokens of a Whisper that knows no other language


@dataclass(frozen=True, slots=True)
class Prospect:
    """`usable` are the bytes that loading may plan with; None leaves that to what is free then."""

    skills: frozenset[str]
    max_model_len: int
    plan: MemoryPlan
    usable: int | None

    @property
    def size(self) -> int:
        """Bytes that the model will take."""
        return self.plan.total

    def usable_now(self, config: EngineConfig) -> int | None:
        """As `usable`, but no more than the machine has: a budget may promise too much."""
        return self.usable and min(self.usable, backend_of(config).usable_memory(1.0))


class MemoryBudget:
    """How much all models of a device may take together, and how much of that each plans with.

    `size` is in bytes; without it the budget of a device is a share of what is free when it is first asked for.
    """

    def __init__(self, size: int | None = None):
        self._size = size
        self._totals: dict[str, int] = {}

    def total(self, config: EngineConfig) -> int:
        """Bytes on the model's device."""
        if self._size is not None:
            return self._size
        if config.device not in self._totals:
            self._totals[config.device] = backend_of(config).usable_memory(FREE_SHARE)
        return self._totals[config.device]


def is_local(config: EngineConfig) -> bool:
    """Whether headers can be read without asking anyone for the files."""
    return config.model is not None and Path(config.model).expanduser().exists()


def read_prospect(config: EngineConfig, budget: MemoryBudget | None, share: float | None = None) -> Prospect:
    """What a model will take of the budget, if there is one: all of `share`, or as much as it has use for.

    Its KV cache has room for max_num_seqs requests of the longest context, and takes at most a part of the budget, or
    more where one request needs more. That depends on nothing that is loaded, so the same model is always the same.
    Raises ModelNotFoundError, ModelLoadError, ConfigError, and MemoryPlanError for what can never fit.
    """
    select_machine()
    checkpoint = open_model(resolve(config.model, revision=config.revision, cache_dir=config.download_dir))
    if budget is None:
        return _prospect(plan_or_advise(config, checkpoint), None)
    total = budget.total(config)
    usable = total if share is None else int(total * share)
    planned = plan_or_advise(config, checkpoint, usable)
    bound = total // CACHE_PART
    while share is None and _is_free_to_choose(config) and planned.plan.kv_cache > bound:
        least = planned.plan.weights + planned.plan.workspace
        try:
            planned = plan_model(config, checkpoint, min(total, least + bound))
            break
        except MemoryPlanError:
            bound *= 2
    return _prospect(planned, planned.plan.usable)


def _is_free_to_choose(config: EngineConfig) -> bool:
    """Whether nobody has said how large the KV cache is to be."""
    return config.kv_cache_memory_bytes is None and config.num_gpu_blocks_override is None


def _prospect(planned: PlannedModel, usable: int | None) -> Prospect:
    return Prospect(_skills(planned), planned.plan.max_model_len, planned.plan, usable)


def _skills(planned: PlannedModel) -> frozenset[str]:
    if planned.encoder is not None:
        is_english = planned.model.vocab_size <= ENGLISH_ONLY
        return frozenset(("transcribe",) if is_english else ("transcribe", "translate"))
    return frozenset(("text",) if planned.pooler is None else planned.pooler.skills)
