"""What a graph costs, before anything is loaded: bytes of weights and cache, bytes and FLOPs of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from octavo.graph.builder import Graph
from octavo.graph.nodes import Attention, Embed, Linear, Logits, Node


@dataclass(frozen=True)
class StepCost:
    """`read_bytes` is what must come from memory at least once; a multiply-add counts as two of `flops`."""

    read_bytes: int
    flops: int


def weight_bytes(graph: Graph, bytes_per_value: int) -> int:
    """Bytes of all weights, each held once: a table used by embedding and logits counts once."""
    return sum(math.prod(weight.shape) * (bytes_per_value if len(weight.shape) > 1 else 4) for weight in graph.weights)


def kv_bytes_per_token(graph: Graph, bytes_per_value: int) -> int:
    """Bytes of keys and values that one token leaves in the cache, over all layers."""
    layers = [node for node in graph.nodes if isinstance(node, Attention)]
    return sum(2 * node.kv_heads * node.head_dim for node in layers) * bytes_per_value


def step_cost(graph: Graph, bytes_per_value: int, contexts: list[tuple[int, int]], logit_rows: int) -> StepCost:
    """Cost of a step over `contexts`: for each sequence, (tokens computed, tokens in its cache afterwards)."""
    tokens = sum(count for count, _ in contexts)
    read = flops = 0
    counted: set[str] = set()
    for node in graph.nodes:
        read += _weight_read(node, bytes_per_value, tokens, counted)
        if isinstance(node, Linear):
            flops += 2 * tokens * math.prod(node.weight.shape)
        elif isinstance(node, Logits):
            flops += 2 * logit_rows * math.prod(node.weight.shape)
        elif isinstance(node, Attention):
            read += sum(_seen(node, 1, total) for _, total in contexts) * (
                2 * node.kv_heads * node.head_dim * bytes_per_value
            )
            flops += sum(_seen(node, count, total) for count, total in contexts) * 4 * node.heads * node.head_dim
    return StepCost(read, flops)


def _weight_read(node: Node, bytes_per_value: int, tokens: int, counted: set[str]) -> int:
    if isinstance(node, Embed):
        return tokens * node.columns * bytes_per_value
    fresh = [weight for weight in node.weights if weight.name not in counted]
    counted.update(weight.name for weight in fresh)
    return sum(math.prod(weight.shape) * bytes_per_value for weight in fresh)


def _seen(node: Attention, count: int, total: int) -> int:
    """Pairs of query and key: each of the last `count` of `total` tokens sees those up to itself, or its window."""
    window = node.window or total
    first = total - count + 1
    full = max(0, total - max(first, window) + 1)  # queries that see a whole window
    ramp = count - full
    return full * window + ramp * first + ramp * (ramp - 1) // 2
