"""From a graph to the native executor's tape: which nodes fuse, which weights are packed together, which buffers live.

A tape is a list of plain records. Fusions change no bit of a result; they save barriers and passes over memory:

    linear q, k, v of one input              one matmul over stacked weights
    rope q, rope k, write k and v            one pass over a token's row
    linear gate, up of one input, then glu   one matmul over alternating weights, silu(gate) * up as its epilogue
    linear, then add to the residual stream  one matmul that adds to it in place
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from octavo.executor.base import Sizes
from octavo.graph.builder import Graph
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


class LoweringError(ValueError):
    """The graph has a pattern that the native executor can't run."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Rows of `columns` values: float32 if `floats`, else in the model's type; one per token, or per logit row."""

    number: int
    columns: int
    floats: bool
    logit_rows: bool = False


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """Weights that are packed into one, "stacked" or "alternating", and their biases, if any."""

    weights: tuple[Weight, ...]
    arrangement: str = "stacked"


@dataclass(frozen=True, slots=True)
class EmbedOp:
    weight: PackedWeights
    out: Buffer


@dataclass(frozen=True, slots=True)
class NormOp:
    x: Buffer
    weight: Weight
    eps: float
    out: Buffer


@dataclass(frozen=True, slots=True)
class MatmulOp:
    x: Buffer
    weight: PackedWeights
    biases: tuple[Weight | None, ...]
    epilogue: str  # store, store_float, add, silu_mul
    out: Buffer


@dataclass(frozen=True, slots=True)
class RopeOp:
    qkv: Buffer
    table: RopeTable | None
    heads: int
    layer: int
    out: Buffer


@dataclass(frozen=True, slots=True)
class AttentionOp:
    q: Buffer
    node: Attention
    out: Buffer


@dataclass(frozen=True, slots=True)
class PointwiseOp:
    kind: str  # add, silu_mul, narrow
    x: Buffer
    y: Buffer
    out: Buffer


TapeOp = EmbedOp | NormOp | MatmulOp | RopeOp | AttentionOp | PointwiseOp


@dataclass(slots=True)
class Tape:
    """The program of a step. `logits` is the buffer in which it ends."""

    ops: list[TapeOp]
    buffers: list[Buffer]
    logits: Buffer
    attention: Attention  # any one: all have the same heads

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes of keys and values that one token takes in the cache, over all layers, with the padding of pages."""
        node = self.attention
        layers = 1 + max(op.node.layer for op in self.ops if isinstance(op, AttentionOp))
        columns = -(-node.head_dim // 2) * 2 + -(-node.head_dim // 16) * 16  # of a key, of a value
        return layers * node.kv_heads * columns * bytes_per_value

    def workspace_bytes(self, bytes_per_value: int, sizes: Sizes) -> int:
        """Bytes of all buffers for the largest steps."""
        return sum(
            -(-buffer.columns // 16)
            * 16  # rows are padded to whole SIMD registers
            * (4 if buffer.floats else bytes_per_value)
            * (sizes.max_logit_rows if buffer.logit_rows else sizes.max_num_batched_tokens)
            for buffer in self.buffers
        )


def lower(graph: Graph, *, fuse: bool = True) -> Tape:
    """The tape of `graph`. Without `fuse`, only what must be fused is; tests compare the two."""
    return _Lowering(graph, fuse).run()


class _Lowering:
    def __init__(self, graph: Graph, fuse: bool):
        self.graph, self.fuse = graph, fuse
        self.uses = Counter(id(x) for node in graph.nodes for x in node.inputs)
        self.ops: list[TapeOp] = []
        self.buffers: list[Buffer] = []
        self.free: list[Buffer] = []
        self.dying: list[Buffer] = []  # read for the last time by the record being made
        self.values: dict[int, Buffer] = {}  # where a node's value lies
        self.left: dict[int, int] = {}  # uses of it that are still to come
        self.before_logits = {id(node.x) for node in graph.nodes if isinstance(node, Logits)}
        self._check_attentions([node for node in graph.nodes if isinstance(node, Attention)])
        self.inside = self._absorbed()

    def run(self) -> Tape:
        logits: Buffer | None = None
        attention: Attention | None = None
        for node in self.graph.nodes:
            if id(node) in self.inside:
                continue
            match node:
                case Embed():
                    self._emit(EmbedOp(PackedWeights((node.weight,)), self._define(node, floats=True)))
                case RMSNorm():
                    x = self._read(node.x, floats=True)
                    rows = self._feeds_logits(node)
                    self._emit(NormOp(x, node.weight, node.eps, self._define(node, floats=False, logit_rows=rows)))
                case Linear():
                    self._linear(node)
                case Attention():
                    self._attention(node)
                    attention = node
                case Add():
                    self._add(node)
                case Glu():
                    self._glu(node)
                case Logits():
                    logits = self._logits(node)
                case _:
                    raise LoweringError(f"{type(node).__name__} stands where it can't be lowered")
        if logits is None or attention is None:
            raise LoweringError("a graph must have attention and end in logits")
        return Tape(self.ops, self.buffers, logits, attention)

    @staticmethod
    def _check_attentions(nodes: list[Attention]) -> None:
        if len({(node.heads, node.kv_heads, node.head_dim) for node in nodes}) > 1:
            raise LoweringError("attention: layers differ in their heads")
        found = sorted(node.layer for node in nodes)
        if found != list(range(len(nodes))):
            raise LoweringError(f"attention: layers must be numbered from 0 on, each once; there are {found}")

    def _absorbed(self) -> set[int]:
        """Nodes that become part of another one's record."""
        inside: set[int] = set()
        for node in self.graph.nodes:
            if isinstance(node, Attention):
                q, k, v = self._projections(node)
                inside |= {id(x) for x in (node.q, node.k, q, k, v)}
            elif self.fuse and isinstance(node, Add):
                if self._only_use(node.y):
                    inside.add(id(node.y))
            elif self.fuse and isinstance(node, Glu) and self._gated(node):
                inside |= {id(node.gate), id(node.up)}
        return inside

    def _only_use(self, node: Node) -> bool:
        return isinstance(node, Linear) and self.uses[id(node)] == 1

    def _gated(self, node: Glu) -> bool:
        gate, up = node.gate, node.up
        if not (isinstance(gate, Linear) and isinstance(up, Linear)):
            return False
        return gate.x is up.x and self._only_use(gate) and self._only_use(up)

    def _projections(self, node: Attention) -> tuple[Linear, Linear, Linear]:
        q, k = (x.x if isinstance(x, Rope) else x for x in (node.q, node.k))
        v = node.v
        if not (isinstance(q, Linear) and isinstance(k, Linear) and isinstance(v, Linear)):
            raise LoweringError("attention: q, k and v must be linear projections")
        if not q.x is k.x is v.x:
            raise LoweringError("attention: q, k and v must be projections of one input")
        if any(self.uses[id(x)] != 1 for x in {node.q, node.k, q, k, v}):
            raise LoweringError("attention: q, k and v must be used for nothing else")
        return q, k, v

    def _feeds_logits(self, node: Node) -> bool:
        return id(node) in self.before_logits and self.uses[id(node)] == 1

    # Buffers: a value's is free again after its last use.

    def _take(self, columns: int, floats: bool, logit_rows: bool = False) -> Buffer:
        for buffer in self.free:
            if (buffer.columns, buffer.floats, buffer.logit_rows) == (columns, floats, logit_rows):
                self.free.remove(buffer)
                return buffer
        buffer = Buffer(len(self.buffers), columns, floats, logit_rows)
        self.buffers.append(buffer)
        return buffer

    def _define(self, node: Node, floats: bool, logit_rows: bool = False) -> Buffer:
        return self._place(node, self._take(node.columns, floats, logit_rows))

    def _place(self, node: Node, buffer: Buffer) -> Buffer:
        self.values[id(node)] = buffer
        self.left[id(node)] = self.uses[id(node)]
        return buffer

    def _emit(self, op: TapeOp) -> None:
        self.ops.append(op)
        self.free += self.dying
        self.dying = []

    def _read(self, node: Node, floats: bool | None = None, uses: int = 1) -> Buffer:
        """The buffer of `node`, free after the record that reads it if this was its last use."""
        buffer = self.values[id(node)]
        if floats is not None and buffer.floats != floats:
            raise LoweringError(f"{type(node).__name__}: its value is needed in another type")
        self.left[id(node)] -= uses
        if self.left[id(node)] == 0:
            self.dying.append(buffer)
        return buffer

    def _narrow(self, node: Node, uses: int = 1) -> Buffer:
        """The value of `node` in the model's type, as matmuls want it."""
        if not self.values[id(node)].floats:
            return self._read(node, uses=uses)
        wide = self._read(node, uses=uses)
        out = self._take(node.columns, floats=False)
        self._emit(PointwiseOp("narrow", wide, wide, out))
        self.dying.append(out)
        return out

    def _matmul(
        self,
        nodes: tuple[Linear, ...],
        epilogue: str,
        x: Buffer,
        make_out: Callable[[], Buffer],
        arrangement: str = "stacked",
    ) -> Buffer:
        weights = PackedWeights(tuple(node.weight for node in nodes), arrangement)
        out = make_out()
        self._emit(MatmulOp(x, weights, tuple(node.bias for node in nodes), epilogue, out))
        return out

    def _linear(self, node: Linear) -> None:
        self._matmul((node,), "store_float", self._narrow(node.x), lambda: self._define(node, floats=True))

    def _attention(self, node: Attention) -> None:
        projections = self._projections(node)
        x = self._narrow(projections[0].x, uses=3)
        columns = sum(p.columns for p in projections)
        qkv = self._matmul(projections, "store_float", x, lambda: self._take(columns, floats=True))
        tables = {p.table if isinstance(p, Rope) else None for p in (node.q, node.k)}
        if len(tables) != 1:
            raise LoweringError("attention: queries and keys must be rotated alike")
        if any(isinstance(p, Rope) and p.head_dim != node.head_dim for p in (node.q, node.k)):
            raise LoweringError(f"attention: heads have {node.head_dim} columns, but rope has others")
        q = self._take(node.columns, floats=False)
        self.dying.append(qkv)
        self._emit(RopeOp(qkv, tables.pop(), node.heads, node.layer, q))
        self.dying.append(q)
        self._emit(AttentionOp(q, node, self._define(node, floats=False)))

    def _add(self, node: Add) -> None:
        if id(node.y) in self.inside:
            assert isinstance(node.y, Linear)
            x = self._narrow(node.y.x)
            residual = self.values[id(node.x)]
            if self.left[id(node.x)] == 1 and residual.floats:
                self.left[id(node.x)] = 0  # its buffer is the sum's from here on
                self._matmul((node.y,), "add", x, lambda: self._place(node, residual))
                return
            y = self._matmul((node.y,), "store_float", x, lambda: self._take(node.columns, floats=True))
            self.dying.append(y)
        else:
            y = self._read(node.y, floats=True)
        x = self._read(node.x, floats=True)
        self._emit(PointwiseOp("add", x, y, self._define(node, floats=True)))

    def _glu(self, node: Glu) -> None:
        if id(node.gate) in self.inside:
            assert isinstance(node.gate, Linear)
            assert isinstance(node.up, Linear)
            x = self._narrow(node.gate.x, uses=2)
            self._matmul((node.gate, node.up), "silu_mul", x, lambda: self._define(node, floats=False), "alternating")
            return
        gate, up = self._read(node.gate, floats=True), self._read(node.up, floats=True)
        self._emit(PointwiseOp("silu_mul", gate, up, self._define(node, floats=False)))

    def _logits(self, node: Logits) -> Buffer:
        if not self.values[id(node.x)].logit_rows:
            raise LoweringError("logits must follow a norm")
        out = self._take(node.columns, floats=True, logit_rows=True)
        x = self._read(node.x)
        self._emit(MatmulOp(x, PackedWeights((node.weight,)), (None,), "store_float", out))
        return out
