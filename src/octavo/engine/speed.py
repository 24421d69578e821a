"""How much of the machine a step used: bytes and FLOPs of the graph against what the machine can do."""

from __future__ import annotations

from functools import cache

from octavo import _native
from octavo.engine.loading import LoadedModel
from octavo.graph.cost import StepCost, step_cost


def cost(model: LoadedModel, contexts: list[tuple[int, int]], logit_rows: int) -> StepCost:
    """Cost of a step over (tokens computed, tokens in the cache afterwards) of each sequence."""
    return step_cost(model.graph, 4 if model.config.compute_dtype == "float32" else 2, contexts, logit_rows)


def decode_bytes(model: LoadedModel, context: int, batch: int = 1) -> int:
    """Bytes read from memory to decode one token for each of `batch` sequences with `context` tokens."""
    return cost(model, [(1, context)] * batch, batch).read_bytes


@cache
def memory_bandwidth(sample: int) -> float:
    """Bytes per second that all threads can read, measured over `sample` bytes."""
    return _native.read_bandwidth(sample)


@cache
def matmul_flops(float32: bool) -> float:
    """FLOP/s of the matmul kernel on data in cache, on all threads, measured."""
    return _native.matmul_flops(float32)
