"""From a graph to the native executor's tape: which nodes fuse, which weights are packed together, which buffers live.

Every node becomes the native op of its name, with the weights and parameters that its fields say; what that op reads
and writes, float32 or the model's type, is asked of it. A few patterns are fused. Fusions change no bit of a result;
they save barriers and passes over memory:

    linears of one input                     one matmul over stacked weights; each value is some of its columns
    rope q, rope k, attention                attention, which rotates on the way to the cache
    linear gate, up of one input, then glu   one matmul over alternating weights, with the glu as its epilogue
    linear, then add to the residual stream  one matmul that adds to it in place; likewise with a scale between them
    linear or convolution, then activation   one matmul with that as its epilogue
    norm, then logits or hidden states       the norm of those rows alone that are wanted

A convolution is a matmul over rows that lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from octavo import _native
from octavo.executor.native.tape import Buffer, Op, Packed, Tape
from octavo.graph.builder import Graph
from octavo.graph.node import Node, Weight
from octavo.graph.ops.attention import Attention, CrossAttention, StoreSource
from octavo.graph.ops.experts import Experts
from octavo.graph.ops.linear import Conv1d, Linear, Logits
from octavo.graph.ops.norm import LayerNorm, RMSNorm
from octavo.graph.ops.output import HiddenStates
from octavo.graph.ops.pointwise import Activation, Add, Glu, Scale
from octavo.graph.ops.rope import Rope, RopeTable

# Nodes that become several records: the one that reads their inputs.
FIRST_RECORD: dict[type[Node], str] = {
    Linear: "matmul",
    Logits: "matmul",
    HiddenStates: "cast",
    Conv1d: "unfold",
    Attention: "store",
    StoreSource: "store",
    CrossAttention: "attend",
}
# Parameters of `attend`, as they are where nothing is done.
_NO_SCORING: dict[str, Any] = {
    "causal": False, "window": 0, "chunk": 0, "lookback": 0, "softcap": 0.0, "slopes": (), "by_root": False,
}  # fmt: skip


class LoweringError(ValueError):
    """The graph has what the native executor can't run."""


def lower(graph: Graph, layouts: Mapping[str, str] | None = None, *, fuse: bool = True) -> Tape:
    """The tape of `graph`. Tests compare it with that without fusions.

    `layouts` names those of weights that are not in the model's own type; see `octavo.executor.native.layouts`.
    """
    return _Lowering(graph, layouts or {}, fuse).run()


class _Lowering:
    def __init__(self, graph: Graph, layouts: Mapping[str, str], fuse: bool):
        self.graph, self.layouts = graph, layouts
        self.readers = graph.uses()
        self.types = _native.op_types()
        self.ops: list[Op] = []
        self.buffers: list[Buffer] = []
        self.free: list[Buffer] = []
        self.dying: list[Buffer] = []  # read for the last time by the record being made
        self.values: dict[Node, Buffer] = {}  # where a node's value lies
        self.left: dict[int, int] = {}  # reads of a buffer that are still to come
        self.angles: dict[RopeTable, Buffer] = {}
        self.maxima: Buffer | None = None
        self.special: dict[type[Node], Callable[[Any], None]] = {
            Linear: self._linear,
            Conv1d: self._linear,
            Logits: self._logits,
            HiddenStates: self._hidden_states,
            Rope: self._rope,
            Attention: self._attention,
            CrossAttention: self._cross_attention,
            StoreSource: self._store_source,
            Add: self._add,
            Glu: self._glu,
            Activation: self._activation,
            Experts: self._experts,
        }
        self.absorbed: set[Node] = set()  # computed as a part of another node's record
        self.stacks: dict[Node, tuple[Linear, ...]] = {}
        if fuse:
            self._find_fusions()

    def run(self) -> Tape:
        self._check_layers()
        last = self.graph.nodes[-1] if self.graph.nodes else None
        if not isinstance(last, Logits | HiddenStates | StoreSource):
            raise LoweringError("a graph must end in logits or hidden states, or in what an encoder stores")
        for node in self.graph.nodes:
            if node not in self.absorbed:
                self.special.get(type(node), self._plain)(node)
        output = None if isinstance(last, StoreSource) else self.values[last]
        return Tape(self.ops, self.buffers, output, self.maxima, list(self.graph.layers.values()))

    def _check_layers(self) -> None:
        writers = [node.layer for node in self.graph.nodes if isinstance(node, Attention) and node.k is not None]
        found = sorted(layer for layer in writers if layer is not None)
        if len(set(found)) < len(found) or list(self.graph.layers) != list(range(len(self.graph.layers))):
            raise LoweringError(f"attention: layers must be numbered from 0 on, each written once; there are {found}")

    # What is fused.

    def _find_fusions(self) -> None:
        for node in self.graph.nodes:
            match node:
                case Activation(x=Linear() | Conv1d() as x) if self._only_use(x) and not self._wants_floats(node):
                    self.absorbed.add(x)
                case Add(y=Linear() as y) if self._only_use(y) and node.x is not y:
                    self.absorbed.add(y)
                case Add(y=Scale(x=Linear() as x) as y) if self._only_use(y) and self._only_use(x) and node.x is not y:
                    self.absorbed |= {x, y}
                case Glu(gate=Linear() as gate, up=Linear() as up) if gate is not up and gate.x is up.x:
                    if gate.columns != up.columns or self._wants_floats(node):
                        continue
                    if self._only_use(gate) and self._only_use(up) and self._layout(gate) == self._layout(up):
                        self.absorbed |= {gate, up}
                case Attention(q=Rope() as q, k=Rope() as k) if q.table == k.table and self._only_use(q):
                    if self._only_use(k) and q.head_dim == k.head_dim == node.head_dim:
                        self.absorbed |= {q, k}
                case RMSNorm() | LayerNorm() if [*map(type, self.readers[node])] in ([Logits], [HiddenStates]):
                    self.absorbed.add(node)
        for node in self.graph.nodes:
            if isinstance(node, Linear) and node not in self.absorbed and node not in self.stacks:
                stack = tuple(
                    reader
                    for reader in dict.fromkeys(self.readers[node.x])
                    if isinstance(reader, Linear) and reader not in self.absorbed
                    if self._layout(reader) == self._layout(node)
                )
                self.stacks |= dict.fromkeys(stack, stack)

    def _layout(self, node: Linear) -> str | None:
        return self.layouts.get(node.weight.name)

    def _only_use(self, node: Node) -> bool:
        return len(self.readers[node]) == 1

    # Buffers: one is free again after the last read of what lies in it.

    def _take(self, columns: int, floats: bool, logit_rows: bool = False, rows_per_token: int = 1) -> Buffer:
        for buffer in self.free:
            if buffer.kind == (columns, floats, logit_rows, rows_per_token):
                self.free.remove(buffer)
                return buffer
        buffer = Buffer(len(self.buffers), columns, floats, logit_rows, rows_per_token)
        self.buffers.append(buffer)
        return buffer

    def _place(self, node: Node, buffer: Buffer) -> None:
        self.values[node] = buffer
        self.left[buffer.number] = self.left.get(buffer.number, 0) + len(self.readers[node])

    def _define(self, node: Node, floats: bool) -> Buffer:
        buffer = self._take(node.columns, floats, rows_per_token=node.rows_per_token)
        self._place(node, buffer)
        return buffer

    def _emit(self, name: str, inputs: list[Buffer], outputs: list[Buffer], *nodes: Node, **rest: Any) -> None:
        self.ops.append(Op(name, tuple(inputs), tuple(outputs), nodes, **rest))
        self.free += self.dying
        self.dying = []

    def _read(self, node: Node, kind: str = "any", uses: int = 1) -> Buffer:
        """Where the value of `node` lies, in the type `kind`. It may go after the record that reads it."""
        buffer = self.values[node]
        self.left[buffer.number] -= uses
        if self.left[buffer.number] == 0:
            self.dying.append(self.buffers[buffer.number])
        if kind == "any" or buffer.floats == (kind == "float32"):
            return buffer
        cast = self._take(buffer.columns, not buffer.floats, buffer.logit_rows, buffer.rows_per_token)
        self.ops.append(Op("cast", (buffer,), (cast,), ()))  # what dies now is read by the record after this
        self.dying.append(cast)
        return cast

    def _types(self, node: Node) -> tuple[list[str], str]:
        name = FIRST_RECORD.get(type(node), node.name())
        if name not in self.types:
            raise LoweringError(f"the native executor has no op {name}, which the graph has")
        return self.types[name]

    def _wants_floats(self, node: Node) -> bool:
        """Whether anybody wants the value in float32; all others get it rounded then, as they would have it anyway."""
        for reader in self.readers[node]:
            kinds, _ = self._types(reader)
            if any(x is node and kinds[i] == "float32" for i, x in enumerate(reader.inputs)):
                return True
        return False

    # How nodes become records.

    def _plain(self, node: Node) -> None:
        """The op of the node's name, with what its fields say."""
        kinds, output = self._types(node)
        inputs = [self._read(x, kind) for x, kind in zip(node.inputs, kinds, strict=True)]
        floats = output == "float32" or (output == "any" and (node.keeps_float32 or self._wants_floats(node)))
        self._emit(node.name(), inputs, [self._define(node, floats)], node, **self._weights(node), params=node.params)

    def _weights(self, node: Node) -> dict[str, Any]:
        """A node's matrices, to be packed, and its vectors."""
        matrices, vectors = {}, {}
        for name, weight in node.named_weights.items():
            if len(weight.shape) > 1 and node.multiplies:
                matrices[name] = Packed((weight,), layout=self.layouts.get(weight.name))
            else:
                vectors[name] = weight
        return {"matrices": matrices, "vectors": vectors}

    def _matmul(
        self,
        nodes: list[Any],
        x: Buffer,
        out: Buffer,
        *more: Node,
        epilogue: str,
        arrangement: str,
        activation: str = "none",
        factor: float = 1.0,
        cap: float | None = None,
        maxima: tuple[Buffer, ...] = (),
    ) -> None:
        biases = tuple(getattr(node, "bias", None) for node in nodes)
        self._emit(
            "matmul",
            [x],
            [out, *maxima],
            *nodes,
            *more,
            matrices={"weight": Packed(tuple(node.weight for node in nodes), arrangement, self._layout(nodes[0]))},
            vectors={"bias": biases} if any(biases) else {},
            params={"epilogue": epilogue, "activation": activation, "factor": factor, "cap": cap or 0.0},
        )

    def _project(self, node: Linear | Conv1d, result: Node, floats: bool, activation: str = "none") -> None:
        """The value of `result`, which is the activation of `node`."""
        x = self._read(node.x, "element")
        if isinstance(node, Conv1d):
            rows = self._take(node.kernel * node.x.columns, False, rows_per_token=node.rows_per_token)
            self._emit("unfold", [x], [rows], params={"kernel": node.kernel, "stride": node.stride})
            self.dying.append(rows)
            x = rows
        out = self._define(result, floats)
        self._matmul([node], x, out, epilogue="store", arrangement="stacked", activation=activation)

    def _linear(self, node: Any) -> None:
        stack = self.stacks.get(node, (node,))
        if len(stack) == 1:
            self._project(node, node, self._wants_floats(node))
        elif node is stack[0]:
            floats = any(map(self._wants_floats, stack))
            x = self._read(node.x, "element", uses=len(stack))
            columns = sum(-(-one.columns // 16) * 16 for one in stack)
            whole = self._take(columns, floats, rows_per_token=node.rows_per_token)
            first = 0
            for one in stack:  # each begins at a multiple of 16 columns
                self._place(one, replace(whole, columns=one.columns, first=first))
                first += -(-one.columns // 16) * 16
            self._matmul(list(stack), x, whole, epilogue="store", arrangement="stacked")

    def _activation(self, node: Activation) -> None:
        if node.x in self.absorbed:
            assert isinstance(node.x, Linear | Conv1d)
            self._project(node.x, node, floats=False, activation=node.kind)
        else:
            self._plain(node)

    def _glu(self, node: Glu) -> None:
        if node.gate not in self.absorbed:
            self._plain(node)
            return
        assert isinstance(node.gate, Linear)
        x = self._read(node.gate.x, "element", uses=2)
        out = self._define(node, floats=False)
        gate_and_up = [node.gate, node.up]
        self._matmul(gate_and_up, x, out, epilogue="glu", arrangement="alternating", activation=node.kind)

    def _experts(self, node: Experts) -> None:
        """All experts' matrices of a kind in one, and room for what lies between two of them."""
        x, routes = self._read(node.x, "element"), self._read(node.routes, "float32")
        between = self._take(node.intermediate, floats=False, rows_per_token=node.top_k)
        pairs = tuple(weight for pair in zip(node.gate, node.up, strict=True) for weight in pair) if node.up else ()
        stacks = {"gate": pairs or node.gate, "down": node.down}
        matrices = {
            name: Packed(
                weights, "alternating" if name == "gate" and pairs else "stacked", self._common_layout(weights)
            )
            for name, weights in stacks.items()
        }
        of_both = tuple(bias for pair in zip(node.gate_bias, node.up_bias, strict=False) for bias in pair)
        biases = {"gate_bias": of_both or node.gate_bias, "down_bias": node.down_bias}
        self._emit(
            "experts",
            [x, routes],
            [self._define(node, floats=True), between],
            node,
            matrices=matrices,
            vectors={name: stack for name, stack in (*biases.items(), ("common", node.bias)) if stack},
            params={**node.params, "is_gated": bool(node.up)},
        )
        self.free.append(between)

    def _common_layout(self, weights: Sequence[Weight]) -> str | None:
        layouts = {self.layouts.get(weight.name) for weight in weights}
        return layouts.pop() if len(layouts) == 1 else None

    def _add(self, node: Add) -> None:
        if node.y not in self.absorbed:
            self._plain(node)
            return
        scaled = node.y if isinstance(node.y, Scale) else None
        y = node.y if scaled is None else scaled.x
        assert isinstance(y, Linear)
        stream = self.values[node.x]
        if self.left[stream.number] == 1 and stream.floats and stream.kind == self.buffers[stream.number].kind:
            x = self._read(y.x, "element")
            self.left[stream.number] = 0  # the buffer is the sum's from here on
            self._place(node, stream)
            factor = 1.0 if scaled is None else scaled.factor
            self._matmul([y], x, stream, node, epilogue="add", arrangement="stacked", factor=factor)
            return
        self._project(y, y, floats=True)
        if scaled is not None:
            self._plain(scaled)
        self._plain(node)

    def _angles(self, table: RopeTable) -> Buffer:
        """cos and sin for the step's tokens: computed where they are wanted first, and kept for all layers."""
        if table not in self.angles:
            out = self.angles[table] = self._take(2 * len(table.inverse_frequencies), floats=True)
            params = {"inverse_frequencies": list(table.inverse_frequencies), "scale": table.scale}
            self._emit("angles", [], [out], params=params)
        return self.angles[table]

    def _rope(self, node: Rope) -> None:
        angles, x = self._angles(node.table), self._read(node.x, "float32")
        params = {"head_dim": node.head_dim, "interleaved": node.table.interleaved}
        self._emit("rope", [x, angles], [self._define(node, floats=True)], node, params=params)

    def _attention(self, node: Attention) -> None:
        where = _place(node, node.layer, node.value_dim, source=False)
        stored = {**where, "has_q": True, "has_kv": node.k is not None, "has_angles": False, "interleaved": False}
        inputs, angles = list(node.inputs), []
        if isinstance(node.q, Rope) and node.q in self.absorbed:
            inputs[:2] = [x.inputs[0] for x in inputs[:2]]
            angles = [self._angles(node.q.table)]
            stored |= {"has_angles": True, "interleaved": node.q.table.interleaved}
        buffers = [self._read(x, "float32") for x in inputs]
        queries = self._take(node.q.columns, floats=False)
        self._emit("store", buffers + angles, [queries], params=stored)
        self.dying.append(queries)
        vectors = {} if node.sinks is None else {"sinks": node.sinks}
        params = where | _scoring(node)
        if node.biases is not None:
            vectors["biases"], params["buckets"] = node.biases, node.buckets
        self._emit("attend", [queries], [self._define(node, floats=False)], node, params=params, vectors=vectors)

    def _cross_attention(self, node: CrossAttention) -> None:
        where = _place(node, node.layer, node.head_dim, source=True)
        q = self._read(node.q, "element")
        self._emit("attend", [q], [self._define(node, floats=False)], node, params=where | _scoring(node))

    def _store_source(self, node: StoreSource) -> None:
        where = _place(node, node.layer, node.head_dim, source=True)
        kv = [self._read(x, "float32") for x in node.inputs]
        how = {"has_q": False, "has_kv": True, "has_angles": False, "interleaved": False}
        self._emit("store", kv, [], params=where | how)

    def _wanted_rows(self, x: Node, floats: bool) -> Buffer:
        """Those of x that are wanted; a norm is of them alone."""
        rows = self._take(x.columns, floats, logit_rows=True)
        if x in self.absorbed:
            inputs = [self._read(x.inputs[0], "float32")]
            self._emit(x.name(), inputs, [rows], x, **self._weights(x), params=x.params)
        else:
            self._emit("cast", [self._read(x)], [rows])
        return rows

    def _hidden_states(self, node: HiddenStates) -> None:
        self._place(node, self._wanted_rows(node.x, floats=True))

    def _logits(self, node: Logits) -> None:
        rows = self._wanted_rows(node.x, floats=False)
        self.dying.append(rows)
        out = self._take(node.columns, floats=True, logit_rows=True)
        self._place(node, out)
        self.maxima = self._take(-(-node.columns // _native.SAMPLING_BLOCK), floats=True, logit_rows=True)
        self._matmul(
            [node],
            rows,
            out,
            epilogue="store",
            arrangement="stacked",
            factor=node.scale,
            cap=node.softcap,
            maxima=(self.maxima,),
        )


def _place(node: Any, layer: int | None, value_dim: int, source: bool) -> dict[str, Any]:
    """Where keys and values lie: parameters of the native ops that write and read them."""
    where = {"kv_heads": node.kv_heads, "head_dim": node.head_dim, "value_dim": value_dim, "source": source}
    return {**where, "layer": -1 if layer is None else layer}


def _scoring(node: Attention | CrossAttention) -> dict[str, Any]:
    """What `attend` does with scores. What a node has not, as over a source, or has as None, is off."""
    return {"scale": node.scale} | {name: getattr(node, name, None) or off for name, off in _NO_SCORING.items()}
