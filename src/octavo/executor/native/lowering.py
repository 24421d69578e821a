"""From a graph to the native executor's tape: which nodes fuse, which weights are packed together, which buffers live.

A tape is a list of plain records. Fusions change no bit of a result; they save barriers and passes over memory:

    linear q, k, v of one input              one matmul over stacked weights
    rope q, rope k, write k and v            one pass over a token's row
    linear gate, up of one input, then glu   one matmul over alternating weights, silu(gate) * up as its epilogue
    linear, then add to the residual stream  one matmul that adds to it in place
    linear or convolution, then gelu         one matmul with gelu as its epilogue

A convolution is a matmul over rows that lie side by side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from octavo.executor.base import Sizes
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
    RopeTable,
    StoreSource,
    Weight,
)


class LoweringError(ValueError):
    """The graph has a pattern that the native executor can't run."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Rows of `columns` values: float32 if `floats`, else in the model's type; some per token, or one per logit row."""

    number: int
    columns: int
    floats: bool
    logit_rows: bool = False
    rows_per_token: int = 1

    @property
    def kind(self) -> tuple[int, bool, bool, int]:
        return self.columns, self.floats, self.logit_rows, self.rows_per_token


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """Weights that are packed into one, "stacked" or "alternating", and their biases, if any."""

    weights: tuple[Weight, ...]
    arrangement: str = "stacked"


@dataclass(frozen=True, slots=True)
class EmbedOp:
    kind: str  # embed: rows by token, positions: rows by position
    weight: PackedWeights
    out: Buffer


@dataclass(frozen=True, slots=True)
class FeaturesOp:
    out: Buffer


@dataclass(frozen=True, slots=True)
class UnfoldOp:
    x: Buffer
    kernel: int
    stride: int
    out: Buffer


@dataclass(frozen=True, slots=True)
class NormOp:
    x: Buffer
    weight: Weight
    bias: Weight | None  # of a layer norm
    eps: float
    out: Buffer


@dataclass(frozen=True, slots=True)
class MatmulOp:
    x: Buffer
    weight: PackedWeights
    biases: tuple[Weight | None, ...]
    epilogue: str  # store, store_float, add, silu_mul, gelu
    out: Buffer


@dataclass(frozen=True, slots=True)
class RopeOp:
    """Rotates, and writes keys and values to the cache. Without query heads there is no output."""

    qkv: Buffer
    table: RopeTable | None
    heads: int
    layer: int
    out: Buffer | None


@dataclass(frozen=True, slots=True)
class AttentionOp:
    q: Buffer
    node: Attention | CrossAttention
    out: Buffer

    @property
    def sight(self) -> str:
        """Which keys a token sees."""
        if isinstance(self.node, CrossAttention):
            return "source"
        return "causal" if self.node.causal else "all"


@dataclass(frozen=True, slots=True)
class PointwiseOp:
    kind: str  # add, silu_mul, gelu, narrow
    x: Buffer
    y: Buffer
    out: Buffer


TapeOp = EmbedOp | FeaturesOp | UnfoldOp | NormOp | MatmulOp | RopeOp | AttentionOp | PointwiseOp


class Slice(NamedTuple):
    """Operations [first, last) for tokens [first, last), and what they cost."""

    ops: tuple[int, int]
    tokens: tuple[int, int]
    flops: float


@dataclass(slots=True)
class Tape:
    """The program of a step. `logits` is the buffer in which it ends, unless it is an encoder's."""

    ops: list[TapeOp]
    buffers: list[Buffer]
    logits: Buffer | None
    attention: Attention  # any one: all have the same heads

    @property
    def num_layers(self) -> int:
        """Layers of the cache that it uses."""
        return 1 + max(op.layer for op in self.ops if isinstance(op, RopeOp))

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes of keys and values that one token takes in the cache, over all layers, with the padding of pages."""
        node = self.attention
        columns = -(-node.head_dim // 2) * 2 + -(-node.head_dim // 16) * 16  # of a key, of a value
        return self.num_layers * node.kv_heads * columns * bytes_per_value

    def slices(self, tokens: int, flops: float) -> list[Slice]:
        """The tape in parts of about so many `flops`: several operations, or one for some of its tokens."""
        found: list[Slice] = []
        first, spent = 0, 0.0
        for i, op in enumerate(self.ops):
            cost = 0.0
            if isinstance(op, MatmulOp):
                values = sum(math.prod(weight.shape) for weight in op.weight.weights)
                cost = 2.0 * values * tokens * op.out.rows_per_token
            elif isinstance(op, AttentionOp):
                cost = 4.0 * op.node.heads * op.node.head_dim * tokens * tokens
            if first < i and spent + cost > flops:
                found.append(Slice((first, i), (0, tokens), spent))
                first, spent = i, 0.0
            if cost > flops:
                count = min(tokens, math.ceil(cost / flops))
                borders = [tokens * part // count for part in range(count + 1)]
                found += [Slice((i, i + 1), border, cost / count) for border in pairwise(borders)]
                first = i + 1
            else:
                spent += cost
        return [*found, Slice((first, len(self.ops)), (0, tokens), spent)] if first < len(self.ops) else found

    def workspace_bytes(self, bytes_per_value: int, sizes: Sizes) -> int:
        """Bytes of all buffers for the largest steps."""
        return sum(
            -(-buffer.columns // 16)
            * 16  # rows are padded to whole SIMD registers
            * (4 if buffer.floats else bytes_per_value)
            * (sizes.max_logit_rows if buffer.logit_rows else sizes.max_num_batched_tokens * buffer.rows_per_token)
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
        self.summed = {id(x) for node in graph.nodes if isinstance(node, Add) for x in node.inputs}
        self._check_attentions([node for node in graph.nodes if isinstance(node, Attention | CrossAttention)])
        self.inside = self._absorbed()

    def run(self) -> Tape:
        logits: Buffer | None = None
        attention: Attention | None = None
        for node in self.graph.nodes:
            if id(node) in self.inside:
                continue
            match node:
                case Embed() | PositionEmbed():
                    kind = "embed" if isinstance(node, Embed) else "positions"
                    self._emit(EmbedOp(kind, PackedWeights((node.weight,)), self._define(node, floats=True)))
                case Features():
                    self._emit(FeaturesOp(self._define(node, floats=False)))
                case RMSNorm() | LayerNorm():
                    x, bias = self._read(node.x, floats=True), node.bias if isinstance(node, LayerNorm) else None
                    rows = self._feeds_logits(node)
                    out = self._define(node, floats=False, logit_rows=rows)
                    self._emit(NormOp(x, node.weight, bias, node.eps, out))
                case Linear() | Conv1d():
                    self._project(node, node, "store_float")
                case Gelu():
                    self._gelu(node)
                case Attention():
                    self._attention(node)
                    attention = node
                case CrossAttention():
                    self._cross_attention(node)
                case StoreSource():
                    self._store_source(node)
                case Add():
                    self._add(node)
                case Glu():
                    self._glu(node)
                case Logits():
                    logits = self._logits(node)
                case _:
                    raise LoweringError(f"{type(node).__name__} stands where it can't be lowered")
        is_encoder = isinstance(self.graph.nodes[-1], StoreSource)
        if attention is None or is_encoder != (logits is None):
            raise LoweringError("a graph must have attention, and end in logits or in what an encoder stores")
        return Tape(self.ops, self.buffers, logits, attention)

    @staticmethod
    def _check_attentions(nodes: list[Attention | CrossAttention]) -> None:
        if len({(node.heads, node.kv_heads, node.head_dim) for node in nodes}) > 1:
            raise LoweringError("attention: layers differ in their heads")
        found = sorted(node.layer for node in nodes if isinstance(node, Attention) and node.causal)
        if found != list(range(len(found))):
            raise LoweringError(f"attention: layers must be numbered from 0 on, each once; there are {found}")

    def _absorbed(self) -> set[int]:
        """Nodes that become part of another one's record."""
        inside: set[int] = set()
        for node in self.graph.nodes:
            if isinstance(node, Attention):
                q, k, v = self._projections(node)
                inside |= {id(x) for x in (node.q, node.k, q, k, v)}
            elif isinstance(node, CrossAttention):
                if not self._only_use(node.q):
                    raise LoweringError("cross attention: q must be a linear projection, used for nothing else")
                inside.add(id(node.q))
            elif isinstance(node, StoreSource):
                if not (self._only_use(node.k) and self._only_use(node.v)) or node.k.inputs != node.v.inputs:
                    raise LoweringError("store_source: k and v must be projections of one input, used for nothing else")
                inside |= {id(node.k), id(node.v)}
            elif self.fuse and isinstance(node, Gelu):
                if self._only_use(node.x) and id(node) not in self.summed:
                    inside.add(id(node.x))
            elif self.fuse and isinstance(node, Add):
                if isinstance(node.y, Linear) and self._only_use(node.y):
                    inside.add(id(node.y))
            elif self.fuse and isinstance(node, Glu) and self._gated(node):
                inside |= {id(node.gate), id(node.up)}
        return inside

    def _only_use(self, node: Node) -> bool:
        return isinstance(node, Linear | Conv1d) and self.uses[id(node)] == 1

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

    def _take(self, columns: int, floats: bool, logit_rows: bool = False, rows_per_token: int = 1) -> Buffer:
        for buffer in self.free:
            if buffer.kind == (columns, floats, logit_rows, rows_per_token):
                self.free.remove(buffer)
                return buffer
        buffer = Buffer(len(self.buffers), columns, floats, logit_rows, rows_per_token)
        self.buffers.append(buffer)
        return buffer

    def _define(self, node: Node, floats: bool, logit_rows: bool = False) -> Buffer:
        return self._place(node, self._take(node.columns, floats, logit_rows, node.rows_per_token))

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
        out = self._take(node.columns, floats=False, rows_per_token=node.rows_per_token)
        self._emit(PointwiseOp("narrow", wide, wide, out))
        self.dying.append(out)
        return out

    def _matmul(
        self,
        nodes: tuple[Linear | Conv1d, ...],
        epilogue: str,
        x: Buffer,
        make_out: Callable[[], Buffer],
        arrangement: str = "stacked",
    ) -> Buffer:
        weights = PackedWeights(tuple(node.weight for node in nodes), arrangement)
        out = make_out()
        self._emit(MatmulOp(x, weights, tuple(node.bias for node in nodes), epilogue, out))
        return out

    def _project(self, node: Linear | Conv1d, result: Node, epilogue: str) -> None:
        """The value of `result`, which is what the epilogue makes of `node`."""
        x = self._narrow(node.x)
        if isinstance(node, Conv1d):
            kernel = node.weight.shape[2]
            rows = self._take(kernel * node.x.columns, floats=False, rows_per_token=node.rows_per_token)
            self._emit(UnfoldOp(x, kernel, node.stride, rows))
            self.dying.append(rows)
            x = rows
        self._matmul((node,), epilogue, x, lambda: self._define(result, floats=epilogue == "store_float"))

    def _gelu(self, node: Gelu) -> None:
        if id(node.x) in self.inside:
            assert isinstance(node.x, Linear | Conv1d)
            self._project(node.x, node, "gelu")
            return
        x = self._read(node.x, floats=True)
        self._emit(PointwiseOp("gelu", x, x, self._define(node, floats=id(node) in self.summed)))

    def _cross_attention(self, node: CrossAttention) -> None:
        assert isinstance(node.q, Linear)
        x = self._narrow(node.q.x)
        q = self._matmul((node.q,), "store", x, lambda: self._take(node.columns, floats=False))
        self.dying.append(q)
        self._emit(AttentionOp(q, node, self._define(node, floats=False)))

    def _store_source(self, node: StoreSource) -> None:
        assert isinstance(node.k, Linear)
        assert isinstance(node.v, Linear)
        x, columns = self._narrow(node.k.x, uses=2), node.k.columns + node.v.columns
        kv = self._matmul((node.k, node.v), "store_float", x, lambda: self._take(columns, floats=True))
        self.dying.append(kv)
        self._emit(RopeOp(kv, None, 0, node.layer, None))

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
