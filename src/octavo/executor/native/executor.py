"""The native executor: packs the weights, writes the tape into the C++ executor, and feeds it steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from octavo import _native
from octavo.executor.base import Draw, Logits, Sizes
from octavo.executor.native.loader import Loader
from octavo.executor.native.lowering import lower
from octavo.executor.native.tape import cache_sizes
from octavo.graph.builder import Graph
from octavo.graph.ops.attention import CrossAttention
from octavo.request import Chunk, Request, Source, StepPlan, chunks_of
from octavo.request import Sequence as RequestSequence
from octavo.sampling.options import SamplerOptions
from octavo.weights.tensor import StoredTensor

SLICE_FLOPS = 1.5e9  # of an encoder: some milliseconds, after which another engine may have its turn
STEP_FLOPS = 6e9  # in one step, if none wants it
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
        encoder: Graph | None = None,
        release: Callable[[str], None] = lambda name: None,
        fuse: bool = True,
    ):
        self.sizes = sizes
        self.runs_ahead = False  # host and device are one: there is nothing to overlap
        self.tape = lower(graph, fuse=fuse)
        cache: dict[str, Any] = {
            "dtype": dtype,
            "layers": cache_sizes(self.tape.layers),
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
        Loader(self.native, self.tape, tensors, dtype, release).load()
        self._encoder: NativeEncoder | None = None
        if encoder is not None:
            self._encoder = NativeEncoder(encoder, tensors, self.native, cache, sizes.source_positions, release, fuse)

    def sampler(self, options: SamplerOptions, seed: int) -> _native.SequenceSampler:
        return _native.SequenceSampler(*options.as_data(), seed)

    def run(self, plan: StepPlan, draws: Sequence[Draw] = ()) -> NativeStepResult:
        """Computes one step. The plan's block copies come first."""
        if plan.encode is not None and plan.encode.source is not None:
            assert self._encoder is not None
            self._encoder.run(plan.encode.source)
        if not plan.chunks:
            return NativeStepResult(self.native.logits(0), [], draws)
        tokens: list[int] = []
        for chunk in plan.chunks:
            tokens += chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]
        logit_rows, rows = plan.logit_rows()
        self.native.run(
            np.array(tokens, np.int32),
            np.array([chunk.start for chunk in plan.chunks], np.int32),
            np.array([chunk.count for chunk in plan.chunks], np.int32),
            _block_tables([chunk.sequence.blocks for chunk in plan.chunks]),
            np.array(logit_rows, np.int32),
            np.array(plan.copies, np.int32) if plan.copies else NO_COPIES,
            *self._sources(plan),
        )
        return NativeStepResult(self.native.logits(len(logit_rows)), rows, draws)

    def cross_attention(self, request: Request, sequence: RequestSequence, heads: Sequence[tuple[int, int]]) -> Logits:
        assert request.source is not None
        source = request.source
        layers = {layer for layer, _ in heads}
        crossings = [
            (i, op.inputs[0], node)
            for i, op in enumerate(self.tape.ops)
            for node in op.nodes
            if isinstance(node, CrossAttention) and node.layer in layers
        ]
        rows: dict[int, list[list[float]]] = {layer: [] for layer in layers}
        for chunk in chunks_of(request, sequence, self.sizes.max_num_batched_tokens):
            first = 0
            for end, q, node in crossings:
                self._run_ops(chunk, source, first, end)
                first = end
                rows[node.layer] += [self.native.read_row(q.number, i, q.columns) for i in range(chunk.count)]
        found: dict[tuple[int, int], Logits] = {}
        for _, _, node in crossings:
            layer = node.layer
            keys = self.native.keys(layer, np.array(source.place.blocks, np.int32), source.num_positions)
            queries = np.array(rows[layer], np.float32)
            for head in (head for at, head in heads if at == layer):
                columns = slice(head * node.head_dim, (head + 1) * node.head_dim)
                scores = node.scale * queries[:, columns] @ keys[head * node.kv_heads // node.heads].T
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                found[layer, head] = weights / weights.sum(axis=1, keepdims=True)
        return np.stack([found[head] for head in heads])

    def _run_ops(self, chunk: Chunk, source: Source, first: int, last: int) -> None:
        """Runs operations [first, last) of the tape over one chunk."""
        sequence = chunk.sequence
        self.native.run(
            np.array(sequence.tokens[chunk.start : chunk.start + chunk.count], np.int32),
            np.array([chunk.start], np.int32),
            np.array([chunk.count], np.int32),
            _block_tables([sequence.blocks]),
            np.zeros(0, np.int32),
            NO_COPIES,
            _block_tables([source.place.blocks]),
            np.array([source.num_positions], np.int32),
            first,
            last,
        )

    def _sources(self, plan: StepPlan) -> tuple[Any, ...]:
        """The block tables and the lengths of every chunk's source, if there are any."""
        if self._encoder is None:
            return ()
        sources = [chunk.request.source for chunk in plan.chunks]
        lengths = np.array([source.num_positions for source in sources if source is not None], np.int32)
        return _block_tables([source.place.blocks for source in sources if source is not None]), lengths


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
        tape = lower(graph, fuse=fuse)
        self.native = _native.Executor(
            **cache, max_tokens=positions, max_sequences=1, max_logit_rows=1, vocab_size=1, decoder=decoder
        )
        Loader(self.native, tape, tensors, cache["dtype"], release).load()
        self.slices = tape.slices(positions, SLICE_FLOPS)

    def run(self, source: Source) -> None:
        """Computes the next slices. Values of the last ones are still in the buffers: one source at a time."""
        features = source.features
        columns = -(-features.shape[1] // 16) * 16
        if columns != features.shape[1]:
            features = np.pad(features, ((0, 0), (0, columns - features.shape[1])))
        features, blocks = np.ascontiguousarray(features, np.float32), np.array(source.place.blocks, np.int32)
        spent = 0.0
        for ops, tokens, flops in self.slices[source.num_slices_done :]:
            if spent and (spent + flops > STEP_FLOPS or _native.pool_is_busy()):
                return
            self.native.encode(features, blocks, source.num_positions, ops, tokens)
            source.num_slices_done += 1
            spent += flops
        source.is_encoded = True


def _block_tables(tables: Sequence[list[int]]) -> np.ndarray[Any, Any]:
    """Block ids: int32 [tables, longest table], padded with zeros."""
    width = max(len(table) for table in tables)
    return np.array([table + [0] * (width - len(table)) for table in tables], np.int32)
