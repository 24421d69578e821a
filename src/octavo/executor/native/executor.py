"""The native executor: packs the weights, writes the tape into the C++ executor, and feeds it steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from octavo import _native
from octavo.executor.base import Draw, Logits, Sizes
from octavo.executor.native import lowering
from octavo.executor.native.lowering import PackedWeights, Tape
from octavo.graph.builder import Graph
from octavo.graph.nodes import RopeTable, Weight
from octavo.request import StepPlan
from octavo.sampling.options import SamplerOptions
from octavo.weights.dequantize import dequantize
from octavo.weights.tensor import StoredTensor

NO_COPIES = np.zeros((0, 2), np.int32)


@dataclass
class NativeStepResult:
    """A step that is done. Tokens are drawn from its logits when they are asked for."""

    logits: Logits
    rows: list[range]
    draws: Sequence[Draw]

    @cached_property
    def sampled(self) -> _native.SampleResult:
        last_rows = [self.rows[draw.chunk][-1] for draw in self.draws]
        return _native.sample(self.logits, last_rows, [draw.sampler for draw in self.draws])  # type: ignore[misc]


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
        release: Callable[[str], None] = lambda name: None,
        fuse: bool = True,
    ):
        self.sizes = sizes
        self.runs_ahead = False  # host and device are one: there is nothing to overlap
        self.tape = lowering.lower(graph, fuse=fuse)
        attention = self.tape.attention
        self.native = _native.Executor(
            dtype=dtype,
            num_layers=1 + max(op.node.layer for op in self.tape.ops if isinstance(op, lowering.AttentionOp)),
            kv_heads=attention.kv_heads,
            head_dim=attention.head_dim,
            page_tokens=sizes.block_size,
            num_pages=sizes.num_blocks,
            max_tokens=sizes.max_num_batched_tokens,
            max_sequences=sizes.max_num_seqs,
            max_logit_rows=sizes.max_logit_rows,
            vocab_size=sizes.vocab_size,
        )
        _Loader(self.native, self.tape, tensors, dtype, release).load()

    def sampler(self, options: SamplerOptions, seed: int) -> _native.SequenceSampler:
        return _native.SequenceSampler(**asdict(options), seed=seed)

    def run(self, plan: StepPlan, draws: Sequence[Draw] = ()) -> NativeStepResult:
        """Computes one step. The plan's block copies come first."""
        tokens: list[int] = []
        for chunk in plan.chunks:
            tokens += chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]
        logit_rows, rows = plan.logit_rows()
        self.native.run(
            np.array(tokens, np.int32),
            np.array([chunk.start for chunk in plan.chunks], np.int32),
            np.array([chunk.count for chunk in plan.chunks], np.int32),
            self._block_tables(plan),
            np.array(logit_rows, np.int32),
            np.array(plan.copies, np.int32) if plan.copies else NO_COPIES,
        )
        return NativeStepResult(self.native.logits(len(logit_rows)), rows, draws)

    def _block_tables(self, plan: StepPlan) -> np.ndarray[Any, Any]:
        """Block ids of every chunk's sequence: int32 [chunks, longest table], padded with zeros."""
        tables = [chunk.sequence.blocks for chunk in plan.chunks]
        width = max(len(table) for table in tables)
        return np.array([table + [0] * (width - len(table)) for table in tables], np.int32)


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
        self.numbers: list[int] = [native.buffer(b.columns, b.floats, b.logit_rows) for b in tape.buffers]

    def load(self) -> None:
        for op in self.tape.ops:
            self._write(op)
        self.native.set_logits(self.numbers[self.tape.logits.number])

    def _write(self, op: lowering.TapeOp) -> None:
        native, number = self.native, self._number
        match op:
            case lowering.EmbedOp():
                native.embed(self._pack(op.weight), number(op.out))
            case lowering.NormOp():
                weight = self._vector(op.weight)
                native.rms_norm(number(op.x), weight, op.eps, number(op.out), op.out.logit_rows)
            case lowering.MatmulOp():
                bias = self._bias(op)
                rows = op.out.logit_rows
                native.matmul(number(op.x), self._pack(op.weight), bias, op.epilogue, number(op.out), rows)
            case lowering.RopeOp():
                native.rope(number(op.qkv), op.heads, self._rope(op.table), op.layer, number(op.out))
            case lowering.AttentionOp():
                node = op.node
                window = node.window or 0
                native.attention(number(op.q), node.heads, node.layer, window, node.scale, number(op.out))
            case lowering.PointwiseOp("narrow"):
                native.narrow(number(op.x), op.x.columns, number(op.out))
            case lowering.PointwiseOp("add"):
                native.add(number(op.x), number(op.y), op.x.columns, number(op.out))
            case lowering.PointwiseOp("silu_mul"):
                native.silu_mul(number(op.x), number(op.y), op.x.columns, number(op.out))

    def _number(self, buffer: lowering.Buffer) -> int:
        return self.numbers[buffer.number]

    def _pack(self, key: PackedWeights) -> _native.PackedWeight:
        if key not in self.packed:
            sources = [self.tensors[weight.name] for weight in key.weights]
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
