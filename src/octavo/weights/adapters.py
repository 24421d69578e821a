"""Adapters that a checkpoint has beside its weights, of which those of one task are merged with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from octavo.errors import ConfigError, ModelLoadError
from octavo.weights.blocks import Bytes
from octavo.weights.config_reader import ConfigReader
from octavo.weights.tensor import Checkpoint, Rearranged, StoredTensor

_PLACE = ".parametrizations.weight."  # of a weight that has adapters, in its name


def adaptations(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The tasks for which a checkpoint has adapters, as Jina v3 has them (Sturua et al. 2024)."""
    found = config.get("lora_adaptations")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def with_adapters(checkpoint: Checkpoint, task: str | None) -> tuple[Checkpoint, str]:
    """The checkpoint with the adapters of a task in its weights, and the task: weight + lora_alpha / lora_rank * B · A.

    Without a task, that is "text-matching" or, where there is none, the last, as in vLLM. Source: Hu et al. 2021.
    Raises ConfigError for a task that has no adapters, ModelLoadError where those of a weight do not fit.
    """
    tasks = adaptations(checkpoint.config)
    chosen = task or ("text-matching" if "text-matching" in tasks else tasks[-1])
    if chosen not in tasks:
        raise ConfigError("task", chosen, f"this model has adapters for {', '.join(tasks) or 'no task'}")
    config = ConfigReader.of_file(checkpoint.config, checkpoint.path / "config.json")
    scale = config.number("lora_alpha", 1.0) / config.integer("lora_rank", 4)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        weight, is_adapted, rest = name.partition(_PLACE)
        if not is_adapted:
            tensors[name] = tensor
        elif rest == "original":
            pair = [checkpoint.tensors.get(f"{weight}{_PLACE}0.lora_{which}") for which in "AB"]
            made = _merged(f"{weight}.weight", tensor, pair, len(tasks), tasks.index(chosen), scale)
            tensors[made.name] = made
    return replace(checkpoint, tensors=tensors), chosen


def _merged(
    name: str, weight: StoredTensor, pair: list[StoredTensor | None], tasks: int, number: int, scale: float
) -> StoredTensor:
    """`pair` are A [tasks, rank, columns] and B [tasks, rows, rank]; of a table of embeddings it is the other way."""
    factors = [one for one in pair if one is not None and len(one.shape) == 3 and one.shape[0] == tasks]
    factors.sort(key=lambda one: one.shape[1] != weight.shape[0])
    shapes = [one.shape[1:] for one in factors]
    if len(shapes) < 2 or (shapes[0][0], shapes[1][1]) != weight.shape or shapes[0][1] != shapes[1][0]:
        reason = f"needs adapters of {tasks} tasks for {weight.shape}, and has {[one and one.shape for one in pair]}"
        raise ModelLoadError(weight.file, name, reason)

    def values(*_: Any) -> Bytes:
        first, second = (factor.values()[number] for factor in factors)
        return np.asarray(weight.values() + np.float32(scale) * (first @ second), np.float32).view(np.uint8)

    arrays = tuple(array for part in (weight, *factors) for array in part.arrays)
    return StoredTensor(name, "F32", weight.shape, Rearranged(arrays, values), file=weight.file)
