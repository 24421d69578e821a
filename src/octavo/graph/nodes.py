"""The vocabulary of the graph: what a model may be made of, and what every executor must be able to run.

A node's value has one row per token of a step (all requests flattened into one ragged axis) and `columns` columns.
Nothing here names a device, a data type of activations, or a memory layout: that is the executor's choice.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the checkpoint, by the name it has there. `shape` is (rows, columns) or (columns,)."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RopeTable:
    """Rotary position embedding (Su et al. 2021): pair i is rotated by position * inverse_frequencies[i] radians.

    Pairs are columns (i, i + half) of a head, or (2i, 2i + 1) if `interleaved`; columns past the last pair stay as they
    are. cos and sin are multiplied by `scale` (YaRN, Peng et al. 2023).
    """

    inverse_frequencies: tuple[float, ...]
    scale: float = 1.0
    interleaved: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value of the graph: [tokens, columns]."""

    columns: int

    @property
    def inputs(self) -> tuple[Node, ...]:
        return ()

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()


@dataclass(frozen=True, slots=True, eq=False)
class Embed(Node):
    """Rows of `weight` [vocabulary, columns], chosen by the step's token ids."""

    weight: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)


@dataclass(frozen=True, slots=True, eq=False)
class Linear(Node):
    """x · weightᵀ + bias, with `weight` [columns, x.columns]."""

    x: Node
    weight: Weight
    bias: Weight | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.x,)

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class RMSNorm(Node):
    """x / sqrt(mean(x²) + eps) * weight (Zhang and Sennrich 2019)."""

    x: Node
    weight: Weight
    eps: float

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.x,)

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)


@dataclass(frozen=True, slots=True, eq=False)
class Rope(Node):
    """Every head of x, `head_dim` columns wide, rotated by its token's position."""

    x: Node
    head_dim: int
    table: RopeTable

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, slots=True, eq=False)
class Attention(Node):
    """Causal attention of each token over its own request's tokens so far, whose k and v go to the paged cache.

    softmax(scale * q · kᵀ) · v by heads; `heads` / `kv_heads` query heads share a KV head (Ainslie et al. 2023).
    With `window`, a token sees itself and the window - 1 tokens before it.
    """

    q: Node
    k: Node
    v: Node
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.q, self.k, self.v)


@dataclass(frozen=True, slots=True, eq=False)
class Add(Node):
    """x + y."""

    x: Node
    y: Node

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.x, self.y)


@dataclass(frozen=True, slots=True, eq=False)
class Glu(Node):
    """silu(gate) * up (Shazeer 2020)."""

    gate: Node
    up: Node

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.gate, self.up)


@dataclass(frozen=True, slots=True, eq=False)
class Logits(Node):
    """x · weightᵀ for those tokens whose next token is asked for; `weight` is [vocabulary, x.columns]."""

    x: Node
    weight: Weight

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.x,)

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)
