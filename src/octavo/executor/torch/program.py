"""From a graph to the torch executor's program: which nodes are computed together, and how long each value lives.

    linears of one input                 one matmul over stacked weights; each value is a part of its columns
    add, then a norm of the sum          one kernel
    linear, then its routes              in float32
    rope q, rope k, write k and v        one kernel, in place

Sums and embeddings, the residual stream, are float32; all other values have the model's type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from octavo.executor.base import Sizes
from octavo.executor.torch.forms import Form
from octavo.graph.builder import Graph
from octavo.graph.cache import LayerCache, by_window, state_bytes
from octavo.graph.hosted import Hosted, run_by_host
from octavo.graph.node import Node, Weight
from octavo.graph.ops.attention import Attention
from octavo.graph.ops.experts import Experts, Route
from octavo.graph.ops.linear import Linear, Logits
from octavo.graph.ops.norm import RMSNorm
from octavo.graph.ops.pointwise import Add
from octavo.graph.ops.rope import Rope, RopeTable
from octavo.weights.layout import PLAIN

SCRATCH_BYTES = 32 << 20  # what is unpacked there is still in the chip's cache when it is multiplied


@dataclass(slots=True)
class Op:
    """Computes `outputs` from `inputs`; values in `dead` are read here for the last time.

    `kind` says how: a "node" by itself, "linears" of one input, "add and norm", or a "rotated attention", which rotates
    its first two inputs by `table`, in place; "routes" are those to experts, and the linear before them.
    """

    kind: str
    outputs: tuple[Node, ...]
    inputs: tuple[Node, ...]
    table: RopeTable | None = None
    dead: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Program:
    """What a step computes, in this order, down to the logits, or to what an encoder stores."""

    ops: list[Op]
    layers: list[LayerCache]  # of the cache
    forms: Mapping[str, Form] = field(default_factory=dict)  # of the weights that are quantized, by their names

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights, each held once: matrices in their form or in the model's type, vectors in float32."""
        weights = {weight for op in self.ops for node in op.outputs for weight in node.weights}
        return sum(self.bytes_of(weight, dtype) for weight in weights)

    @cached_property
    def _in_float32(self) -> set[Weight]:
        return {weight for op in self.ops if op.kind == "routes" for node in op.outputs for weight in node.weights}

    def bytes_of(self, weight: Weight, dtype: str) -> int:
        if weight.name in self.forms:
            rows, columns = weight.shape
            return self.forms[weight.name].nbytes(rows, columns)
        in_float32 = len(weight.shape) < 2 or weight in self._in_float32
        return PLAIN["float32" if in_float32 else dtype].nbytes(weight.shape)

    @property
    def state_bytes(self) -> int:
        return state_bytes(self.layers)

    def page_bytes(self, dtype: str, block_size: int) -> tuple[int, ...]:
        """Bytes of a block of the KV cache, of each group of layers."""
        groups = by_window(self.layers).values()
        values = (sum(layer.values_per_token for layer in layers) for layers in groups)
        return tuple(PLAIN[dtype].nbytes((count * block_size,)) for count in values)

    def workspace_bytes(self, dtype: str, sizes: Sizes) -> int:
        """Bytes of the largest step, of the token table and states, of the tables of cos and sin, and for unpacking."""
        output = self.ops[-1].outputs[0].columns
        logits = 2 * 4 * output * sizes.max_logit_rows  # a second copy is adjusted
        token_table = sizes.max_num_seqs * sizes.max_model_len * 4
        states = (sizes.max_num_seqs + sizes.num_snapshots + 1) * self.state_bytes
        tables = {node.table for op in self.ops for node in op.outputs if isinstance(node, Rope)}
        tables |= {op.table for op in self.ops if op.table is not None}
        rotations = sum(2 * 4 * len(table.inverse_frequencies) for table in tables) * sizes.max_model_len
        values = self._bytes_per_token(dtype) * sizes.max_num_batched_tokens
        return values + logits + token_table + states + rotations + scratch_bytes(self.forms)

    def _bytes_per_token(self, dtype: str) -> int:
        """Bytes of a token's values that are alive at the worst moment of a step."""
        alive = most = 0
        for op in self.ops[:-1]:
            alive += sum(value_bytes(node, dtype) for node in op.outputs)
            most = max(most, alive + scratch_values(op.outputs[0]) * PLAIN[dtype].nbytes((1,)))
            alive -= sum(value_bytes(node, dtype) for node in op.dead)
        return most


def scratch_bytes(forms: Mapping[str, Form]) -> int:
    """Bytes of the room where quantized matrices are unpacked, if there are any."""
    return SCRATCH_BYTES if forms else 0


def scratch_values(node: Node) -> int:
    """How many values of the model's type an op holds for each token beside its inputs and outputs."""
    if not isinstance(node, Experts):
        return 0
    inner = node.intermediate
    return node.top_k * max(3 * inner if node.up else 2 * inner, inner + node.columns)


def value_bytes(node: Node, dtype: str) -> int:
    """Bytes that a token's value takes, while it is made."""
    if isinstance(node, Hosted):
        return PLAIN[dtype].nbytes((node.work_columns,))
    return PLAIN["float32" if node.keeps_float32 else dtype].nbytes((node.rows_per_token, node.columns))


def compile_graph(graph: Graph, forms: Mapping[str, Form] | None = None) -> Program:
    """The program of `graph`, of whose weights those are quantized that `forms` names."""
    readers = graph.uses()
    ops: list[Op] = []
    done: set[Node] = set()
    for node in graph.nodes:
        is_rotated = isinstance(node, Rope) and any(_rotates(one, readers) for one in readers[node])
        if node not in done and not is_rotated and not run_by_host(node):
            op = _op_of(node, readers)
            ops.append(op)
            done.update(op.outputs)
    _find_dead(ops)
    return Program(ops, list(graph.layers.values()), forms or {})


def _op_of(node: Node, readers: dict[Node, list[Node]]) -> Op:
    match node:
        case Linear() if _routes(node, readers):
            return Op("routes", (node, readers[node][0]), (node.x,))
        case Linear():
            linears = (other for other in dict.fromkeys(readers[node.x]) if isinstance(other, Linear))
            return Op("linears", tuple(other for other in linears if not _routes(other, readers)), (node.x,))
        case Add() if norms := [x for x in readers[node] if isinstance(x, RMSNorm) and x.width == x.columns]:
            return Op("add and norm", (node, norms[0]), node.inputs)
        case Attention(q=Rope(x=q, table=table), k=Rope(x=k), v=v) if v and _rotates(node, readers):
            return Op("rotated attention", (node,), (q, k, v), table)
        case _:
            return Op("node", (node,), node.inputs)


def _routes(node: Linear, readers: dict[Node, list[Node]]) -> bool:
    """Whether it says who asks whom: then it is computed in float32, as few tokens change their minds of a rounding."""
    return len(readers[node]) == 1 and isinstance(readers[node][0], Route)


def _rotates(node: Node, readers: dict[Node, list[Node]]) -> bool:
    """Whether it is an attention whose q and k are rotated alike, with nobody else to look at them, before or after."""
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
