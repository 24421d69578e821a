"""The builder: a model declaration calls it once, op by op; it checks shapes and keeps the nodes in order."""

from __future__ import annotations

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
    RopeTable,
    StoreSource,
    Weight,
)


class ShapeError(ValueError):
    """An op of a model declaration got inputs that do not fit together."""


class Graph:
    """A model as data: nodes in the order they are computed, ending in logits, or in what an encoder stores.

    Weights are named as the checkpoint names them, without the ".weight" or ".bias" at the end.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: set[int] = set()

    def embed(self, name: str, vocab_size: int, columns: int) -> Node:
        return self._append(Embed(columns, Weight(f"{name}.weight", (vocab_size, columns))))

    def position_embed(self, name: str, positions: int, columns: int) -> Node:
        return self._append(PositionEmbed(columns, Weight(f"{name}.weight", (positions, columns))))

    def features(self, columns: int, rows_per_token: int) -> Node:
        return self._append(Features(columns, rows_per_token))

    def conv1d(self, x: Node, name: str, columns: int, kernel: int, stride: int = 1) -> Node:
        if kernel % 2 == 0 or x.rows_per_token % stride:
            raise ShapeError(f"conv1d: kernel {kernel}, stride {stride} over {x.rows_per_token} rows per token")
        weight = Weight(f"{name}.weight", (columns, x.columns, kernel))
        return self._append(Conv1d(columns, x, weight, Weight(f"{name}.bias", (columns,)), stride))

    def linear(self, x: Node, name: str, columns: int, bias: bool = False) -> Node:
        weight = Weight(f"{name}.weight", (columns, x.columns))
        return self._append(Linear(columns, x, weight, Weight(f"{name}.bias", (columns,)) if bias else None))

    def rms_norm(self, x: Node, name: str, eps: float) -> Node:
        return self._append(RMSNorm(x.columns, x, Weight(f"{name}.weight", (x.columns,)), eps))

    def layer_norm(self, x: Node, name: str, eps: float) -> Node:
        weight, bias = (Weight(f"{name}.{part}", (x.columns,)) for part in ("weight", "bias"))
        return self._append(LayerNorm(x.columns, x, weight, bias, eps))

    def rope(self, x: Node, head_dim: int, table: RopeTable) -> Node:
        if x.columns % head_dim:
            raise ShapeError(f"rope: {x.columns} columns are no whole number of heads of {head_dim}")
        if 2 * len(table.inverse_frequencies) > head_dim:
            raise ShapeError(f"rope: {len(table.inverse_frequencies)} pairs do not fit a head of {head_dim}")
        return self._append(Rope(x.columns, x, head_dim, table))

    def attention(
        self,
        q: Node,
        k: Node,
        v: Node,
        *,
        layer: int,
        head_dim: int,
        scale: float,
        window: int | None = None,
        causal: bool = True,
    ) -> Node:
        heads, kv_heads = self._heads("attention", q.columns, k.columns, head_dim)
        if k.columns != v.columns:
            raise ShapeError(f"attention: k and v have {k.columns} and {v.columns} columns")
        return self._append(Attention(q.columns, q, k, v, layer, heads, kv_heads, head_dim, scale, window, causal))

    def store_source(self, k: Node, v: Node, *, layer: int, head_dim: int) -> Node:
        self._same("store_source", k, v)
        _, kv_heads = self._heads("store_source", k.columns, k.columns, head_dim)
        return self._append(StoreSource(0, k, v, layer, kv_heads, head_dim))

    def cross_attention(self, q: Node, *, layer: int, kv_heads: int, head_dim: int, scale: float) -> Node:
        heads, _ = self._heads("cross_attention", q.columns, kv_heads * head_dim, head_dim)
        return self._append(CrossAttention(q.columns, q, layer, heads, kv_heads, head_dim, scale))

    def gelu(self, x: Node) -> Node:
        return self._append(Gelu(x.columns, x))

    def add(self, x: Node, y: Node) -> Node:
        self._same("add", x, y)
        return self._append(Add(x.columns, x, y))

    def glu(self, gate: Node, up: Node) -> Node:
        self._same("glu", gate, up)
        return self._append(Glu(gate.columns, gate, up))

    def logits(self, x: Node, name: str, vocab_size: int) -> Node:
        return self._append(Logits(vocab_size, x, Weight(f"{name}.weight", (vocab_size, x.columns))))

    @property
    def weights(self) -> list[Weight]:
        """All weights in the order of their first use, each once."""
        return list(dict.fromkeys(weight for node in self.nodes for weight in node.weights))

    def _append(self, node: Node) -> Node:
        if missing := [x for x in node.inputs if id(x) not in self._known]:
            raise ShapeError(f"{type(node).__name__}: an input is of another graph: {type(missing[0]).__name__}")
        self.nodes.append(node)
        self._known.add(id(node))
        return node

    @staticmethod
    def _heads(op: str, q_columns: int, kv_columns: int, head_dim: int) -> tuple[int, int]:
        heads, kv_heads = q_columns // head_dim, kv_columns // head_dim
        if q_columns != heads * head_dim or kv_columns != kv_heads * head_dim:
            raise ShapeError(f"{op}: {q_columns} and {kv_columns} columns are no whole heads of {head_dim}")
        if not kv_heads or heads % kv_heads:
            raise ShapeError(f"{op}: {heads} heads are no multiple of {kv_heads} KV heads")
        return heads, kv_heads

    @staticmethod
    def _same(op: str, x: Node, y: Node) -> None:
        if x.columns != y.columns:
            raise ShapeError(f"{op}: inputs have {x.columns} and {y.columns} columns")
