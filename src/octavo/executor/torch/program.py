"""From a graph to the torch executor's program: which nodes are computed together, and how long each value lives.

    linears of one input                 one matmul over stacked weights; each value is a part of its columns
    add, then a norm of the sum          one kernel
    rope q, rope k, write k and v        one kernel, in place

Sums and embeddings, the residual stream, are float32; all other values have the model's type.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.executor.base import Sizes
from octavo.graph.builder import Graph
from octavo.graph.nodes import (
    Add,
    Attention,
    Embed,
    Linear,
    Logits,
    Node,
    PositionEmbed,
    RMSNorm,
    Rope,
    RopeTable,
    Weight,
)


@dataclass(slots=True)
class Op:
    """Computes `outputs`. Values in `dead` are read here for the last time."""

    dead: list[Node] = field(default_factory=list, init=False)

    @property
    def outputs(self) -> tuple[Node, ...]:
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[Node, ...]:
        inside = set(map(id, self.outputs))
        return tuple(x for node in self.outputs for x in node.inputs if id(x) not in inside)


@dataclass(slots=True)
class NodeOp(Op):
    """A node by itself."""

    node: Node

    @property
    def outputs(self) -> tuple[Node, ...]:
        return (self.node,)


@dataclass(slots=True)
class MatmulOp(Op):
    """Linears of one input."""

    nodes: tuple[Linear, ...]

    @property
    def outputs(self) -> tuple[Node, ...]:
        return self.nodes

    @property
    def weights(self) -> tuple[Weight, ...]:
        return tuple(node.weight for node in self.nodes)


@dataclass(slots=True)
class AddNormOp(Op):
    add: Add
    norm: RMSNorm

    @property
    def outputs(self) -> tuple[Node, ...]:
        return (self.add, self.norm)


@dataclass(slots=True)
class AttentionOp(Op):
    """Rotates q and k in place by `table`, if there is one, stores k and v, and attends."""

    node: Attention
    q: Node
    k: Node
    table: RopeTable | None

    @property
    def outputs(self) -> tuple[Node, ...]:
        return (self.node,)

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.q, self.k, self.node.v)


@dataclass(frozen=True, slots=True)
class Program:
    """What a step computes, in this order, down to the logits, or to what an encoder stores."""

    ops: list[Op]
    attentions: list[Attention]  # by layer, if it is a decoder's

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes of keys and values that one token takes in the cache, over all layers."""
        return sum(2 * node.kv_heads * node.head_dim * bytes_per_value for node in self.attentions)

    def workspace_bytes(self, bytes_per_value: int, sizes: Sizes) -> int:
        """Bytes of the largest step, of the token table, and of the tables of cos and sin."""
        logits = 2 * 4 * sizes.vocab_size * sizes.max_logit_rows  # a second copy is adjusted
        token_table = 2 * sizes.max_num_seqs * sizes.max_model_len * 4
        tables = {op.table for op in self.ops if isinstance(op, AttentionOp) and op.table is not None}
        rotations = sum(2 * 4 * len(table.inverse_frequencies) for table in tables) * sizes.max_model_len
        return self._bytes_per_token(bytes_per_value) * sizes.max_num_batched_tokens + logits + token_table + rotations

    def _bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes of a token's values that are alive at the worst moment of a step."""
        alive = most = 0
        for op in self.ops[:-1]:
            alive += sum(value_bytes(node, bytes_per_value) for node in op.outputs)
            most = max(most, alive)
            alive -= sum(value_bytes(node, bytes_per_value) for node in op.dead)
        return most


def value_bytes(node: Node, bytes_per_value: int) -> int:
    """Bytes that a token's value takes."""
    is_wide = isinstance(node, Embed | PositionEmbed | Add)
    return node.columns * node.rows_per_token * (4 if is_wide else bytes_per_value)


def compile_graph(graph: Graph) -> Program:
    """The program of `graph`."""
    readers: dict[Node, list[Node]] = {node: [] for node in graph.nodes}
    for node in graph.nodes:
        for x in node.inputs:
            readers[x].append(node)
    ops: list[Op] = []
    done: set[Node] = set()
    for node in graph.nodes:
        if node not in done and not (isinstance(node, Rope) and _rotated_by_attention(node, readers)):
            op = _op_of(node, readers)
            ops.append(op)
            done.update(op.outputs)
    _find_dead(ops)
    attentions = [node for node in graph.nodes if isinstance(node, Attention)]
    return Program(ops, sorted(attentions, key=lambda node: node.layer))


def _op_of(node: Node, readers: dict[Node, list[Node]]) -> Op:
    match node:
        case Linear():
            return MatmulOp(tuple(other for other in readers[node.x] if isinstance(other, Linear)))
        case Add():
            norm = next((other for other in readers[node] if isinstance(other, RMSNorm)), None)
            return NodeOp(node) if norm is None else AddNormOp(node, norm)
        case Attention(q=Rope(x=q, table=table), k=Rope(x=k)) if _rotates(node, readers):
            return AttentionOp(node, q, k, table)
        case Attention():
            return AttentionOp(node, node.q, node.k, None)
        case _:
            return NodeOp(node)


def _rotated_by_attention(rope: Rope, readers: dict[Node, list[Node]]) -> bool:
    return any(isinstance(node, Attention) and _rotates(node, readers) for node in readers[rope])


def _rotates(node: Attention, readers: dict[Node, list[Node]]) -> bool:
    """Whether q and k are rotated alike, and nobody else looks at them, before or after that."""
    match node:
        case Attention(q=Rope() as q, k=Rope() as k) if q.table == k.table:
            alone = all(len(readers[x]) == 1 for x in (q, k, q.x, k.x))
            return alone and q.head_dim == k.head_dim == node.head_dim
    return False


def _find_dead(ops: list[Op]) -> None:
    seen: set[Node] = set()
    for op in reversed(ops):
        op.dead = [node for node in dict.fromkeys((*op.inputs, *op.outputs)) if node not in seen]
        op.dead = [node for node in op.dead if not isinstance(node, Logits)]
        seen.update(op.inputs, op.outputs)
