"""The builder: a model declaration calls it once, op by op; it checks shapes and keeps the nodes in order."""

from __future__ import annotations

from octavo.graph.nodes import (
    Add,
    Attention,
    Embed,
    Glu,
    Linear,
    Logits,
    Node,
    RMSNorm,
    Rope,
    RopeTable,
    Weight,
)


class ShapeError(ValueError):
    """An op of a model declaration got inputs that do not fit together."""


class Graph:
    """A model as data: nodes in the order they are computed, ending in logits.

    Weights are named as the checkpoint names them, without the ".weight" or ".bias" at the end.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: set[int] = set()

    def embed(self, name: str, vocab_size: int, columns: int) -> Node:
        return self._append(Embed(columns, Weight(f"{name}.weight", (vocab_size, columns))))

    def linear(self, x: Node, name: str, columns: int, bias: bool = False) -> Node:
        weight = Weight(f"{name}.weight", (columns, x.columns))
        return self._append(Linear(columns, x, weight, Weight(f"{name}.bias", (columns,)) if bias else None))

    def rms_norm(self, x: Node, name: str, eps: float) -> Node:
        return self._append(RMSNorm(x.columns, x, Weight(f"{name}.weight", (x.columns,)), eps))

    def rope(self, x: Node, head_dim: int, table: RopeTable) -> Node:
        if x.columns % head_dim:
            raise ShapeError(f"rope: {x.columns} columns are no whole number of heads of {head_dim}")
        if 2 * len(table.inverse_frequencies) > head_dim:
            raise ShapeError(f"rope: {len(table.inverse_frequencies)} pairs do not fit a head of {head_dim}")
        return self._append(Rope(x.columns, x, head_dim, table))

    def attention(
        self, q: Node, k: Node, v: Node, *, layer: int, head_dim: int, scale: float, window: int | None = None
    ) -> Node:
        heads, kv_heads = q.columns // head_dim, k.columns // head_dim
        if q.columns != heads * head_dim or k.columns != kv_heads * head_dim or k.columns != v.columns:
            raise ShapeError(f"attention: q, k, v have {q.columns}, {k.columns}, {v.columns} columns of {head_dim}")
        if not kv_heads or heads % kv_heads:
            raise ShapeError(f"attention: {heads} heads are no multiple of {kv_heads} KV heads")
        return self._append(Attention(q.columns, q, k, v, layer, heads, kv_heads, head_dim, scale, window))

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
    def _same(op: str, x: Node, y: Node) -> None:
        if x.columns != y.columns:
            raise ShapeError(f"{op}: inputs have {x.columns} and {y.columns} columns")
