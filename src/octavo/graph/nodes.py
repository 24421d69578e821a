"""The vocabulary of the graph: what a model may be made of, and what every executor must be able to run.

A node's value has one row per token of a step (all requests flattened into one ragged axis) and `columns` columns. An
encoder has a graph of its own, which reads a source (30 s of sound, say): its tokens are the positions of that source,
and its first values may have several rows for each of them.
Nothing here names a device, a data type of activations, or a memory layout: that is the executor's choice.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the checkpoint, by the name it has there: (rows, columns), (columns,) or (rows, columns, kernel)."""

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
    """A value of the graph: [tokens * rows_per_token, columns]."""

    columns: int

    @property
    def rows_per_token(self) -> int:
        return self.inputs[0].rows_per_token if self.inputs else 1

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
class PositionEmbed(Node):
    """Rows of `weight` [positions, columns], chosen by the tokens' positions."""

    weight: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)


@dataclass(frozen=True, slots=True, eq=False)
class Features(Node):
    """The source that an encoder reads, `rows` rows for each of its positions."""

    rows: int

    @property
    def rows_per_token(self) -> int:
        return self.rows


@dataclass(frozen=True, slots=True, eq=False)
class Conv1d(Node):
    """A convolution over the rows of one source, `weight` [columns, x.columns, kernel], with an odd kernel.

    Row t is centred on row t * stride of x; rows before the first and after the last are zeros.
    """

    x: Node
    weight: Weight
    bias: Weight
    stride: int

    @property
    def rows_per_token(self) -> int:
        return self.x.rows_per_token // self.stride

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.x,)

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight, self.bias)


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
class LayerNorm(Node):
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias (Ba et al. 2016)."""

    x: Node
    weight: Weight
    bias: Weight
    eps: float

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.x,)

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight, self.bias)


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
    """Attention of each token over its own request's tokens so far, whose k and v go to the paged cache.

    softmax(scale * q · kᵀ) · v by heads; `heads` / `kv_heads` query heads share a KV head (Ainslie et al. 2023).
    With `window`, a token sees itself and the window - 1 tokens before it. Where it is not `causal`, in an encoder, all
    positions of a source see each other.
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
    causal: bool = True

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.q, self.k, self.v)


@dataclass(frozen=True, slots=True, eq=False)
class StoreSource(Node):
    """Puts k and v of a source's positions into the paged cache, for the cross attention of the same `layer`."""

    k: Node
    v: Node
    layer: int
    kv_heads: int
    head_dim: int

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.k, self.v)


@dataclass(frozen=True, slots=True, eq=False)
class CrossAttention(Node):
    """Attention of each token over all positions of its request's source, as `StoreSource` left them."""

    q: Node
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.q,)


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
class Gelu(Node):
    """x * Φ(x), with the normal distribution's own Φ (Hendrycks and Gimpel 2016)."""

    x: Node

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.x,)


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
