"""The native executor: packs the weights, writes the tape into the C++ executor, and feeds it steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from octavo import _native
from octavo.executor.base import NO_COPIES, NONE, Draw, Encode, Encoded, Ids, Logits, Sizes, Step
from octavo.executor.native import lowering
from octavo.executor.native.lowering import PackedWeights, Tape
from octavo.graph.builder import Graph
from octavo.graph.nodes import Attention, RopeTable, Weight
from octavo.weights.dequantize import dequantize
from octavo.weights.tensor import StoredTensor

SLICE_FLOPS = 1.5e9  # of an encoder: some milliseconds, after which another engine may have its turn
STEP_FLOPS = 6e9  # in one step, if none wants it


@dataclass
class NativeStepResult:
    """A step that is done. Tokens are drawn from its logits when they are asked for."""

    logits: Logits
    encoded: Encoded | None
    rows: list[int]  # of the draws
    samplers: list[_native.SequenceSampler]  # of the draws

    @cached_property
    def sampled(self) -> _native.SampleResult:
        return _native.sample(self.logits, self.rows, self.samplers)


class NativeExecutor:
    """Runs a graph on the CPU.

    `tensors` has every weight of the graph; `release(name)` is called when a matrix has been packed, so that no second
    copy of it stays in memory.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, StoredTensor],
        sizes: Sizes,
        *,
        dtype: str,
        encoder: Graph | None = None,
        release: Callable[[str], None] = lambda name: None,
        fuse: bool = True,
    ):
        self.sizes = sizes
        self.runs_ahead = False  # host and device are one: there is nothing to overlap
        self.tape = lowering.lower(graph, fuse=fuse)
        attention = self.tape.attention
        cache: dict[str, Any] = {
            "dtype": dtype,
            "num_layers": self.tape.num_layers,
            "kv_heads": attention.kv_heads,
            "head_dim": attention.head_dim,
            "page_tokens": sizes.block_size,
            "num_pages": sizes.num_blocks,
        }
        self.native = _native.Executor(
            **cache,
            max_tokens=sizes.max_num_batched_tokens,
            max_sequences=sizes.max_num_seqs,
            max_logit_rows=sizes.max_logit_rows,
            vocab_size=sizes.vocab_size,
        )
        _Loader(self.native, self.tape, tensors, dtype, release).load()
        self._encoder: NativeEncoder | None = None
        if encoder is not None:
            self._encoder = NativeEncoder(encoder, tensors, self.native, cache, sizes.source_positions, release, fuse)

        self._samplers: dict[int, _native.SequenceSampler] = {}  # by the ids of their sequences

    def reset(self) -> None:
        self._samplers.clear()

    def run(self, step: Step) -> NativeStepResult:
        """Computes one step."""
        step.check_supported()
        for ended in step.ended:
            self._samplers.pop(ended, None)
        encoded = None
        if step.encode is not None:
            assert self._encoder is not None
            encoded = self._encoder.run(step.encode)
        if len(step.tokens):
            self._run(step, step.wanted.logits, step.copies)
        logits = self.native.logits(len(step.wanted.logits))
        return NativeStepResult(
            logits, encoded, [draw.row for draw in step.draws], [self._sampler(draw) for draw in step.draws]
        )

    def _sampler(self, draw: Draw) -> _native.SequenceSampler:
        sampler = self._samplers.get(draw.sequence)
        if sampler is None:
            sampler = _native.SequenceSampler(**asdict(draw.options), seed=draw.seed)
            self._samplers[draw.sequence] = sampler
        for token in draw.accepted:
            sampler.accept(token)
        return sampler

    def _run(self, step: Step, logit_rows: Ids, copies: Ids, *ops: int) -> None:
        """Runs the whole tape, or operations [first, last) of it."""
        self.native.run(
            step.tokens,
            step.starts,
            step.counts,
            step.block_tables,
            logit_rows,
            copies,
            step.source_tables,
            step.source_lengths,
            *ops,
        )

    def cross_attention(self, step: Step, heads: Sequence[tuple[int, int]]) -> Logits:
        assert step.source_tables is not None
        assert step.source_lengths is not None
        layers = {layer for layer, _ in heads}
        crossings = [
            (i, op)
            for i, op in enumerate(self.tape.ops)
            if isinstance(op, lowering.AttentionOp) and op.sight == "source" and op.node.layer in layers
        ]
        rows: dict[int, list[list[float]]] = {layer: [] for layer in layers}
        for part in step.parts(self.sizes.max_num_batched_tokens):
            first = 0
            for end, op in crossings:
                self._run(part, NONE, NO_COPIES, first, end)
                first = end
                count = len(part.tokens)
                rows[op.node.layer] += [self.native.read_row(op.q.number, i, op.q.columns) for i in range(count)]
        found: dict[tuple[int, int], Logits] = {}
        for _, op in crossings:
            layer = op.node.layer
            keys = self.native.keys(layer, step.source_tables[0], int(step.source_lengths[0]))
            queries = np.array(rows[layer], np.float32)
            for head in (head for at, head in heads if at == layer):
                columns = slice(head * op.node.head_dim, (head + 1) * op.node.head_dim)
                scores = op.node.scale * queries[:, columns] @ keys[head * op.node.kv_heads // op.node.heads].T
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                found[layer, head] = weights / weights.sum(axis=1, keepdims=True)
        return np.stack([found[head] for head in heads])


class NativeEncoder:
    """The tape of an encoder, on the cache of its decoder. It is run in slices, so that no step takes long."""

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, StoredTensor],
        decoder: _native.Executor,
        cache: Mapping[str, Any],
        positions: int,
        release: Callable[[str], None],
        fuse: bool,
    ):
        tape = lowering.lower(graph, fuse=fuse)
        self.native = _native.Executor(
            **cache, max_tokens=positions, max_sequences=1, max_logit_rows=1, vocab_size=1, decoder=decoder
        )
        _Loader(self.native, tape, tensors, cache["dtype"], release).load()
        self.slices = tape.slices(positions, SLICE_FLOPS)

    def run(self, source: Encode) -> Encoded:
        """Computes the next slices. Values of the last ones are still in the buffers: one source at a time."""
        features = source.features
        columns = -(-features.shape[1] // 16) * 16
        if columns != features.shape[1]:
            features = np.pad(features, ((0, 0), (0, columns - features.shape[1])))
        features, spent, done = np.ascontiguousarray(features, np.float32), 0.0, source.num_slices_done
        for ops, tokens, flops in self.slices[done:]:
            if spent and (spent + flops > STEP_FLOPS or _native.pool_is_busy()):
                break
            self.native.encode(features, source.blocks, source.num_positions, ops, tokens)
            done += 1
            spent += flops
        return Encoded(done, done == len(self.slices))


class _Loader:
    """Packs weights in the order of the tape, and writes the tape."""

    def __init__(
        self,
        native: _native.Executor,
        tape: Tape,
        tensors: Mapping[str, StoredTensor],
        dtype: str,
        release: Callable[[str], None],
    ):
        self.native, self.tape, self.tensors, self.dtype, self.release = native, tape, tensors, dtype, release
        self.packed: dict[PackedWeights, _native.PackedWeight] = {}
        self.ropes: dict[RopeTable, int] = {}
        self.numbers: list[int] = [native.buffer(*buffer.kind) for buffer in tape.buffers]

    def load(self) -> None:
        for op in self.tape.ops:
            self._write(op)
        if self.tape.logits is not None:
            self.native.set_logits(self.numbers[self.tape.logits.number])

    def _write(self, op: lowering.TapeOp) -> None:
        native, number = self.native, self._number
        match op:
            case lowering.EmbedOp():
                add = native.embed if op.kind == "embed" else native.positions
                add(self._pack(op.weight), number(op.out))
            case lowering.FeaturesOp():
                native.features(op.out.columns, number(op.out))
            case lowering.UnfoldOp():
                native.unfold(number(op.x), op.kernel, op.stride, number(op.out))
            case lowering.NormOp():
                weight = self._vector(op.weight)
                if op.bias is None:
                    native.rms_norm(number(op.x), weight, op.eps, number(op.out), op.out.logit_rows)
                else:
                    shift = self._vector(op.bias)
                    native.layer_norm(number(op.x), weight, shift, op.eps, number(op.out), op.out.logit_rows)
            case lowering.MatmulOp():
                bias = self._bias(op)
                rows = op.out.logit_rows
                native.matmul(number(op.x), self._pack(op.weight), bias, op.epilogue, number(op.out), rows)
            case lowering.RopeOp():
                out = -1 if op.out is None else number(op.out)
                native.rope(number(op.qkv), op.heads, self._rope(op.table), op.layer, out)
            case lowering.AttentionOp():
                node = op.node
                window = (node.window or 0) if isinstance(node, Attention) else 0
                native.attention(number(op.q), node.heads, node.layer, window, node.scale, number(op.out), op.sight)
            case lowering.PointwiseOp("narrow"):
                native.narrow(number(op.x), op.x.columns, number(op.out))
            case lowering.PointwiseOp("add"):
                native.add(number(op.x), number(op.y), op.x.columns, number(op.out))
            case lowering.PointwiseOp("silu_mul"):
                native.silu_mul(number(op.x), number(op.y), op.x.columns, number(op.out))
            case lowering.PointwiseOp("gelu"):
                native.gelu(number(op.x), op.x.columns, number(op.out))

    def _number(self, buffer: lowering.Buffer) -> int:
        return self.numbers[buffer.number]

    def _pack(self, key: PackedWeights) -> _native.PackedWeight:
        if key not in self.packed:
            sources = [_as_matrix(self.tensors[weight.name]) for weight in key.weights]
            self.packed[key] = _native.pack(
                [(t.format, t.data, t.shape[0], t.shape[1], t.row_order) for t in sources],
                key.arrangement,
                self.dtype,
            )
            for weight in key.weights:
                self.release(weight.name)
        return self.packed[key]

    def _vector(self, weight: Weight) -> np.ndarray[Any, np.dtype[np.float32]]:
        return dequantize(self.tensors[weight.name]).astype(np.float32).reshape(-1)

    def _bias(self, op: lowering.MatmulOp) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        """The biases of all packed weights, in the order of their rows; zeros for those that have none."""
        if all(bias is None for bias in op.biases):
            return None
        parts = [
            np.zeros(weight.shape[0], np.float32) if bias is None else self._vector(bias)
            for weight, bias in zip(op.weight.weights, op.biases, strict=True)
        ]
        if op.weight.arrangement == "stacked":
            return np.concatenate(parts)
        padded = [np.pad(part, (0, -len(part) % 16)).reshape(-1, 1, 16) for part in parts]
        return np.concatenate(padded, axis=1).reshape(-1)

    def _rope(self, table: RopeTable | None) -> int:
        if table is None:
            return -1
        if table not in self.ropes:
            frequencies = np.array(table.inverse_frequencies, np.float32)
            self.ropes[table] = self.native.rope_table(frequencies, table.scale, table.interleaved)
        return self.ropes[table]


def _as_matrix(tensor: StoredTensor) -> StoredTensor:
    """A convolution's weight [rows, columns, kernel] as [rows, kernel * columns]: a matrix for unfolded rows."""
    if len(tensor.shape) != 3:
        return tensor
    values = dequantize(tensor).astype(np.float32).transpose(0, 2, 1)
    matrix = np.ascontiguousarray(values).reshape(tensor.shape[0], -1)
    return StoredTensor(tensor.name, "F32", matrix.shape, matrix.view(np.uint8).reshape(-1))
