"""What a graph costs, before anything is loaded: bytes and FLOPs of a step, from what its nodes say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo.graph.builder import Graph
from octavo.graph.node import StepShape, Weight


@dataclass(frozen=True)
class StepCost:
    """`read_bytes` is what must come from memory at least once; a multiply-add counts as two of `flops`."""

    read_bytes: int
    flops: int


def step_cost(
    graph: Graph, weight_bytes: Callable[[Weight], int], value_bytes: int, cached_bytes: float, step: StepShape
) -> StepCost:
    """`weight_bytes` says what a weight takes in memory.

    A value of a table's row takes `value_bytes`, one of the cache `cached_bytes`, its part of a scale included.
    """
    read = flops = 0
    counted: set[Weight] = set()
    for node in graph.nodes:
        flops += node.flops(step)
        read += round(node.cache_reads(step) * cached_bytes)
        if not node.reads_all_weights:
            read += step.tokens * node.columns * value_bytes
            continue
        new = sum(weight_bytes(weight) for weight in node.weights if weight not in counted)
        read += round(new * node.used_share(step.tokens))
        counted.update(node.weights)
    return StepCost(read, flops)
