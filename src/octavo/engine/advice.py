"""What would fit where a model does not: the same options with as few changes as make it fit, each of them tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.memory import LEAST_LENGTH
from octavo.engine.planning import DeclaredModel, PlannedModel, declare_model, plan_model
from octavo.errors import MemoryPlanError, OctavoError
from octavo.weights import Checkpoint

Changes = dict[str, Any]
Usable = Callable[[DeclaredModel], int]  # bytes that an engine may take

FEWER = {"max_num_seqs": 8, "max_num_batched_tokens": 512}
# In the order in which they change what comes out: not at all, in keys and values, in weights.
STEPS: tuple[Changes, ...] = (
    {},
    FEWER,
    {**FEWER, "max_model_len": 512},
    {"kv_cache_dtype": "int8"},
    {"kv_cache_dtype": "int8", **FEWER},
    {"quantization": "int8"},
    {"quantization": "int8", **FEWER},
    {"quantization": "int8", "kv_cache_dtype": "int8", **FEWER},
    {"quantization": "int4"},
    {"quantization": "int4", **FEWER},
    {"quantization": "int4", "kv_cache_dtype": "int8", **FEWER},
)
USEFUL_LENGTH = 1024  # a shorter context is proposed only where nothing else fits


def usable_here(declared: DeclaredModel) -> int:
    """What this machine, or its container, leaves to an engine."""
    return declared.backend.usable_memory(declared.config.gpu_memory_utilization)


def plan_or_advise(config: EngineConfig, checkpoint: Checkpoint, usable: int | None = None) -> PlannedModel:
    """`plan_model`, whose MemoryPlanError says which options would fit."""
    try:
        return plan_model(config, checkpoint, usable)
    except MemoryPlanError as error:
        size = usable_here if usable is None else lambda model: usable
        raise with_ways(error, what_fits(config, checkpoint, size)) from None


def with_ways(error: MemoryPlanError, ways: list[Changes]) -> MemoryPlanError:
    """The error with the options that would fit, in place of what it says by itself."""
    if not ways:
        return error
    said = (" ".join(f"{name}={value}" for name, value in changes.items()) for changes in ways)
    return MemoryPlanError(error.arithmetic, f"{', or '.join(said)} would fit", error.longest)


def what_fits(config: EngineConfig, checkpoint: Checkpoint, usable: Usable) -> list[Changes]:
    """At most two ways to make a model fit: first the one that only shortens its context, then the one that keeps it.

    Where neither is there, the first that fits with a shorter context. All have been planned; none may do.
    """
    shorter = kept = least = None
    for changes, longest in _tried(config, checkpoint, usable):
        if longest is None and "max_model_len" not in changes:
            kept = changes
            break
        if longest is None or longest >= LEAST_LENGTH:
            changed = changes if longest is None else {**changes, "max_model_len": longest}
            least = least or changed
            if not changes and longest is not None and longest >= USEFUL_LENGTH:
                shorter = changed
    ways = [one for one in (shorter, kept) if one is not None]
    return ways or ([least] if least is not None else [])


def _tried(config: EngineConfig, checkpoint: Checkpoint, usable: Usable) -> Iterator[tuple[Changes, int | None]]:
    """Changes, and the longest context that fits with them: None if all that is asked for does, 0 if none does."""
    for step in STEPS:
        changes = {name: value for name, value in step.items() if _is_less(config, name, value)}
        if len(changes) < len(step) and any(changes == {**other} for other in STEPS if other is not step):
            continue  # which is tried by itself
        try:
            longest = _longest(replace(config, **changes), checkpoint, usable)
        except OctavoError:  # quantized already, or not by this executor
            continue
        yield changes, longest


def _is_less(config: EngineConfig, name: str, value: Any) -> bool:
    asked = getattr(config, name)
    return asked != value and (not isinstance(value, int) or asked is None or asked > value)


def _longest(config: EngineConfig, checkpoint: Checkpoint, usable: Usable) -> int | None:
    declared = declare_model(config, checkpoint)
    size = usable(declared)
    try:
        declared.memory_plan(size)
    except MemoryPlanError as error:
        if not error.longest:
            return 0
        longest = error.longest
    else:
        return None
    while longest >= LEAST_LENGTH:  # what it says would fit is tried, too: a smaller context may change the plan
        shorter = declare_model(replace(config, max_model_len=longest), checkpoint)
        try:
            shorter.memory_plan(size)
        except MemoryPlanError:
            longest //= 2
        else:
            return longest
    return 0
