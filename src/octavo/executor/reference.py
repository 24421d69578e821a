"""A plain numpy interpreter of the graph: what every op means, and what every executor is tested against.

One sequence, or one source, all of it at once, in float32: no cache, no batch, no fusion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octavo.graph.builder import Graph
from octavo.graph.nodes import (
    Add,
    Attention,
    Conv1d,
    CrossAttention,
    Embed,
    Features,
    Gelu,
    Glu,
    LayerNorm,
    Linear,
    Logits,
    Node,
    PositionEmbed,
    RMSNorm,
    Rope,
    StoreSource,
    Weight,
)
from octavo.weights.dequantize import dequantize
from octavo.weights.tensor import StoredTensor

Floats = np.ndarray[Any, np.dtype[np.float32]]


Sources = dict[int, tuple[Floats, Floats]]  # keys and values by layer, [positions, columns]


def reference_logits(
    graph: Graph, tensors: Mapping[str, StoredTensor], token_ids: Sequence[int], sources: Sources | None = None
) -> Floats:
    """The logits after every token: float32 [tokens, vocabulary]."""
    return _values(graph, tensors, token_ids, None, dict(sources or {}))[graph.nodes[-1]]


def reference_sources(graph: Graph, tensors: Mapping[str, StoredTensor], features: Floats) -> Sources:
    """What an encoder leaves for cross attention; `features` are float32 [rows, columns]."""
    sources: Sources = {}
    _values(graph, tensors, (), features, sources)
    return sources


def _values(
    graph: Graph,
    tensors: Mapping[str, StoredTensor],
    token_ids: Sequence[int],
    features: Floats | None,
    sources: Sources,
) -> dict[Node, Floats]:
    def read(weight: Weight) -> Floats:
        return dequantize(tensors[weight.name])

    values: dict[Node, Floats] = {}
    for node in graph.nodes:
        match node:
            case Embed():
                value = read(node.weight)[list(token_ids)]
            case PositionEmbed():
                table = read(node.weight)
                value = table[: len(token_ids) or len(table)]
            case Features():
                assert features is not None
                value = features
            case Conv1d():
                value = conv1d(values[node.x], read(node.weight), node.stride) + read(node.bias)
            case Linear():
                value = values[node.x] @ read(node.weight).T
                if node.bias is not None:
                    value = value + read(node.bias)
            case RMSNorm():
                value = rms_norm(values[node.x], read(node.weight), node.eps)
            case LayerNorm():
                value = layer_norm(values[node.x], read(node.weight), read(node.bias), node.eps)
            case Rope():
                value = rope(values[node.x], node)
            case Attention():
                value = attention(values[node.q], values[node.k], values[node.v], node)
            case StoreSource():
                sources[node.layer] = values[node.k], values[node.v]
                continue
            case CrossAttention():
                value = attention(values[node.q], *sources[node.layer], node)
            case Gelu():
                value = gelu(values[node.x])
            case Add():
                value = values[node.x] + values[node.y]
            case Glu():
                value = silu(values[node.gate]) * values[node.up]
            case Logits():
                value = values[node.x] @ read(node.weight).T
            case _:
                raise TypeError(f"no reference for {type(node).__name__}")
        values[node] = value.astype(np.float32)
    return values


def conv1d(x: Floats, weight: Floats, stride: int) -> Floats:
    kernel = weight.shape[2]
    padded = np.pad(x, ((kernel // 2, kernel // 2), (0, 0)))
    rows = range(0, len(x), stride)
    return np.stack([np.einsum("ki,oik->o", padded[row : row + kernel], weight) for row in rows])


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(np.mean(np.square(centred), -1, keepdims=True) + eps) * weight + bias)


def gelu(x: Floats) -> Floats:
    return np.asarray([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x.ravel()]).reshape(x.shape)


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    scale = np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps))
    return np.asarray(x / scale * weight, np.float32)


def silu(x: Floats) -> Floats:
    return np.asarray(x / (1 + np.exp(-x)), np.float32)


def rope(x: Floats, node: Rope) -> Floats:
    """Row t of `x` is at position t."""
    table, half = node.table, len(node.table.inverse_frequencies)
    angles = np.outer(np.arange(len(x), dtype=np.float32), np.array(table.inverse_frequencies, np.float32))
    cos, sin = (table.scale * f(angles)[:, None, :] for f in (np.cos, np.sin))
    heads = x.reshape(len(x), -1, node.head_dim)
    if table.interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        first, second = slice(0, half), slice(half, 2 * half)
    a, b = heads[..., first], heads[..., second]
    rotated = heads.copy()
    rotated[..., first], rotated[..., second] = a * cos - b * sin, b * cos + a * sin
    return rotated.reshape(x.shape)


def attention(q: Floats, k: Floats, v: Floats, node: Attention | CrossAttention) -> Floats:
    tokens, group = len(q), node.heads // node.kv_heads
    queries = q.reshape(tokens, node.heads, node.head_dim).swapaxes(0, 1)
    keys, values = (
        np.repeat(x.reshape(len(x), node.kv_heads, node.head_dim).swapaxes(0, 1), group, axis=0) for x in (k, v)
    )
    hidden = np.zeros((tokens, len(k)), bool)
    if isinstance(node, Attention) and node.causal:
        back = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]  # how far a key is behind a query
        hidden = (back < 0) | (back >= (node.window or tokens))
    scores = np.where(hidden, -np.inf, node.scale * (queries @ keys.swapaxes(1, 2)))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.asarray((weights @ values).swapaxes(0, 1).reshape(tokens, -1), np.float32)
