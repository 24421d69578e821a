"""The native executor's tape: a list of plain records, and what it needs of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from octavo import _native
from octavo.executor.base import Sizes
from octavo.graph.cache import LayerCache, by_window, state_bytes
from octavo.graph.node import Node, StepShape, Weight
from octavo.weights.layout import PLAIN


@dataclass(frozen=True, slots=True)
class Buffer:
    """Columns of rows: float32 if `floats`, else in the model's type; some per token, or one per logit row."""

    number: int
    columns: int
    floats: bool
    logit_rows: bool = False
    rows_per_token: int = 1
    first: int = 0  # of the columns that the buffer of this number has

    @property
    def kind(self) -> tuple[int, bool, bool, int]:
        return self.columns, self.floats, self.logit_rows, self.rows_per_token


@dataclass(frozen=True, slots=True)
class Packed:
    """Matrices that are packed into one, "stacked", or pairs of them "alternating".

    `layout` is one of `native/layouts`; None is that of the model's own type.
    """

    weights: tuple[Weight, ...]
    arrangement: str = "stacked"
    layout: str | None = None

    @property
    def columns(self) -> int:
        return self.weights[0].size // self.weights[0].shape[0]

    def nbytes(self, dtype: str) -> int:
        return _native.packed_bytes(self.layout or dtype, [weight.shape[0] for weight in self.weights], self.columns)


@dataclass(frozen=True, slots=True)
class Op:
    """What the native op `name` is given. `nodes` are those of the graph that it computes, for what that costs.

    A vector is a weight, or, of packed matrices, one for each or None.
    """

    name: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    nodes: tuple[Node, ...]
    matrices: Mapping[str, Packed] = field(default_factory=dict)
    vectors: Mapping[str, Weight | tuple[Weight | None, ...]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)

    def flops(self, step: StepShape) -> int:
        return sum(node.flops(step) for node in self.nodes)

    def weight_bytes(self, dtype: str, tokens: float) -> float:
        """Of what it reads in a step that it has rows of, one of so many tokens."""
        if not all(node.reads_all_weights for node in self.nodes):
            return 0
        vectors = sum(map(_size, self.vectors.values()))
        used = min((node.used_share(tokens) for node in self.nodes), default=1.0)
        return used * (sum(matrix.nbytes(dtype) for matrix in self.matrices.values()) + 4 * vectors)

    def cache_bytes(self, step: StepShape, dtype: str) -> int:
        """Of keys and values that it reads in a step, and of rows of tables."""
        rows = sum(node.columns for node in self.nodes if not node.reads_all_weights)
        values = sum(node.cache_reads(step) for node in self.nodes) + step.tokens * rows
        return values * PLAIN[dtype].block_bytes


class Slice(NamedTuple):
    """Operations [first, last) for tokens [first, last), and what they cost."""

    ops: tuple[int, int]
    tokens: tuple[int, int]
    flops: float


@dataclass(frozen=True)
class Tape:
    """The program of a step. Unless it is an encoder's, it ends in an `output`: hidden states, or logits.

    Of logits there are the `maxima` of blocks of them, too.
    """

    ops: list[Op]
    buffers: list[Buffer]
    output: Buffer | None
    maxima: Buffer | None
    layers: list[LayerCache]  # of the cache

    def matrices(self) -> list[Packed]:
        return [matrix for op in self.ops for matrix in op.matrices.values()]

    def slices(self, tokens: int, flops: float, *, cuts_ops: bool = True) -> list[Slice]:
        """The tape in parts of about so many `flops`: several operations, or one, or, with `cuts_ops`, one for some of
        its tokens, as a step of a single sequence may be computed.
        """
        step = StepShape([(tokens, tokens)], 0)
        found: list[Slice] = []
        first, spent = 0, 0.0
        for i, op in enumerate(self.ops):
            cost = op.flops(step)
            if first < i and spent + cost > flops:
                found.append(Slice((first, i), (0, tokens), spent))
                first, spent = i, 0.0
            if cost > flops and cuts_ops:
                count = min(tokens, math.ceil(cost / flops))
                borders = [tokens * part // count for part in range(count + 1)]
                found += [Slice((i, i + 1), border, cost / count) for border in pairwise(borders)]
                first = i + 1
            else:
                spent += cost
        return [*found, Slice((first, len(self.ops)), (0, tokens), spent)] if first < len(self.ops) else found

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights, each held once: a table used by embedding and logits counts once."""
        vectors = {vector for op in self.ops for vector in op.vectors.values()}
        return sum(matrix.nbytes(dtype) for matrix in set(self.matrices())) + 4 * sum(map(_size, vectors))

    def bytes_of(self, weight: Weight, dtype: str) -> int:
        if len(weight.shape) < 2:
            return 4 * weight.size
        return Packed((weight,), layout=self._layouts.get(weight)).nbytes(dtype)

    @cached_property
    def _layouts(self) -> dict[Weight, str | None]:
        return {weight: matrix.layout for matrix in self.matrices() for weight in matrix.weights}

    def _prepared_bytes(self, sizes: Sizes) -> int:
        """Of the input of one matmul. Matrices behind an op's first have its last output as their input."""
        most = 0
        for op in self.ops:
            for i, matrix in enumerate(op.matrices.values() if op.inputs else ()):
                x = op.outputs[-1] if i else op.inputs[0]
                rows = sizes.max_logit_rows if x.logit_rows else sizes.max_num_batched_tokens * x.rows_per_token
                most = max(most, rows * _native.prepared_row_bytes(matrix.layout or "float32", matrix.columns))
        return most

    @property
    def state_bytes(self) -> int:
        return state_bytes(self.layers, pad=16)

    def page_bytes(self, dtype: str, block_size: int) -> tuple[int, ...]:
        """Bytes of a block of the KV cache, of each group of layers."""
        groups = by_window(self.layers).values()
        return tuple(_native.page_bytes(dtype, cache_sizes(layers), block_size) for layers in groups)

    def workspace_bytes(self, dtype: str, sizes: Sizes) -> int:
        """Bytes of all buffers for the largest steps, of prepared rows, and of keys and values of one step."""
        total = self._prepared_bytes(sizes)
        for buffer in self.buffers:
            rows = sizes.max_num_batched_tokens * buffer.rows_per_token
            layout = "float32" if buffer.floats else dtype
            row = _native.packed_bytes(layout, [16], -(-buffer.columns // 16) * 16) // 16
            total += row * (sizes.max_logit_rows if buffer.logit_rows else rows)
        scratch = {node.sizes for op in self.ops for node in op.nodes if hasattr(node, "sizes") and node.cached is None}
        pages = -(-sizes.max_num_batched_tokens // sizes.block_size) + sizes.max_num_seqs - 1
        total += self.state_bytes * (sizes.max_num_seqs + sizes.num_snapshots)
        return total + sum(
            pages * _native.page_bytes(dtype, cache_sizes([layer]), sizes.block_size) for layer in scratch
        )


def cache_sizes(
    layers: list[LayerCache], group_of: Callable[[LayerCache], int] = lambda layer: 0
) -> list[tuple[int, int, int, int]]:
    return [(layer.kv_heads, layer.key_dim, layer.value_dim, group_of(layer)) for layer in layers]


def _size(vector: Weight | tuple[Weight | None, ...]) -> int:
    parts = vector if isinstance(vector, tuple) else (vector,)
    return sum(part.size for part in parts if part is not None)
