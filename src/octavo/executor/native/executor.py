"""The native executor: packs the weights, writes the tape into the C++ executor, and feeds it steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from octavo import _native
from octavo.executor.base import NO_COPIES, NONE, Draw, Encode, Encoded, Ids, Logits, Masks, Sampled, Sizes, Step
from octavo.executor.native.layouts import choose_layouts
from octavo.executor.native.loader import Loader
from octavo.executor.native.lowering import lower
from octavo.executor.native.memory import NativeMemory
from octavo.executor.native.python_rules import Adjusted, Ruled
from octavo.executor.native.tape import Slice, Tape, cache_sizes
from octavo.executor.rows import Rows
from octavo.graph.builder import Graph
from octavo.graph.ops.attention import CrossAttention
from octavo.weights.tensor import StoredTensor

SLICE_FLOPS = 1.5e9  # of an encoder: some milliseconds, after which another engine may have its turn
MOST_SLICINGS = 1024  # that are kept; each takes some kilobytes
STEP_FLOPS = 6e9  # in one step, if none wants it


@dataclass
class NativeStepResult:
    """A step that is done. Tokens are drawn from its logits when they are asked for."""

    native: _native.Executor
    num_rows: int  # of the output
    encoded: Encoded | None
    draws: tuple[Draw, ...]
    samplers: list[_native.SequenceSampler]  # of the draws
    ruled: dict[int, Ruled]  # those of them whose rules are in Python
    masks: Masks | None

    @cached_property
    def logits(self) -> Logits:
        return self.native.logits(self.num_rows)

    @property
    def hidden_states(self) -> Logits:
        return self.logits

    @cached_property
    def sampled(self) -> Sampled:
        rows = [draw.row for draw in self.draws]
        masks = None if self.masks is None else self.masks.result()
        mask_rows = [] if masks is None else [draw.mask for draw in self.draws]
        if self.ruled:
            return Adjusted(self.logits, rows, self.samplers, self.ruled, masks, mask_rows)
        return self.native.sample(rows, self.samplers, masks, mask_rows)


class NativeExecutor:
    """Runs a graph on the CPU.

    `tensors` has every weight of the graph; `release(name)` is called when a matrix has been packed, so that no second
    copy of it stays in memory. The KV cache is int8 or of the model's type, which is the default.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, StoredTensor],
        sizes: Sizes,
        *,
        dtype: str,
        cache_dtype: str | None = None,
        encoder: Graph | None = None,
        quantization: str | None = None,
        release: Callable[[str], None] = lambda name: None,
        fuse: bool = True,
    ):
        self.sizes = sizes
        self.runs_ahead = False  # host and device are one: there is nothing to overlap
        self.tape = lower(graph, choose_layouts(graph, tensors, dtype, quantization), fuse=fuse)
        cache: dict[str, Any] = {
            "dtype": dtype,
            "cache_dtype": cache_dtype or dtype,
            "layers": cache_sizes(self.tape.layers, sizes.group_of),
            "page_tokens": sizes.block_size,
            "num_pages": [group.count for group in sizes.groups],
        }
        self.native = _native.Executor(
            **cache,
            max_tokens=sizes.max_num_batched_tokens,
            max_sequences=sizes.max_num_seqs,
            max_logit_rows=sizes.max_logit_rows,
            vocab_size=sizes.vocab_size,
            num_slots=sizes.max_num_seqs + sizes.num_snapshots,
        )
        Loader(self.native, self.tape, tensors, dtype, release).load()
        self._encoder: NativeEncoder | None = None
        if encoder is not None:
            tape = lower(encoder, choose_layouts(encoder, tensors, dtype, quantization), fuse=fuse)
            self._encoder = NativeEncoder(tape, tensors, self.native, cache, sizes.source_positions, release)

        self.output = graph.output
        self._has_parts = graph.keeps_nothing  # whether its operations may be computed for some tokens after others
        self._known_slices: dict[tuple[int, bool], list[Slice]] = {}
        self._samplers: dict[int, _native.SequenceSampler] = {}  # by the ids of their sequences
        self._ruled: dict[int, Ruled] = {}  # likewise
        # The first are those of sequences, the others those of snapshots.
        self._slots = Rows(sizes.max_num_seqs) if self.tape.state_bytes else None

    def reset(self) -> None:
        self._samplers.clear()
        self._ruled.clear()
        if self._slots is not None:
            self._slots.clear()

    def give_back(self) -> None:
        self.reset()
        self.native.give_back()
        if self._encoder is not None:
            self._encoder.native.give_back()

    @cached_property
    def memory(self) -> NativeMemory:
        return NativeMemory(self.native, self.sizes)

    def run(self, step: Step) -> NativeStepResult:
        """Computes one step."""
        step.check_supported(self.output)
        if self._slots is not None:
            for source, target in self._slots.change(step.forks, step.ended):
                self.native.copy_state(source, target)
            for snapshot, sequence in step.loads:
                self.native.copy_state(self.sizes.max_num_seqs + snapshot, self._slots.row_of(sequence))
        for ended in step.ended:
            self._samplers.pop(ended, None)
            self._ruled.pop(ended, None)
        encoded = None
        if step.encode is not None:
            assert self._encoder is not None
            encoded = self._encoder.run(step.encode)
        if len(step.tokens) and self.output == "logits":
            self._run(step, step.wanted.rows, step.copies)
        elif len(step.tokens):
            self._run_in_slices(step)
        samplers = [self._sampler(draw) for draw in step.draws]
        ruled = {i: self._ruled[draw.sequence] for i, draw in enumerate(step.draws) if draw.sequence in self._ruled}
        return NativeStepResult(self.native, len(step.wanted.rows), encoded, step.draws, samplers, ruled, step.masks)

    def _sampler(self, draw: Draw) -> _native.SequenceSampler:
        sampler = self._samplers.get(draw.sequence)
        if sampler is None:
            options, rules = draw.options.as_data()
            if not all(rule.is_native for rule in draw.options.rules):
                output: list[int] = []
                self._ruled[draw.sequence], rules = Ruled(draw.options.for_sequence(output), output), []
            sampler = self._samplers[draw.sequence] = _native.SequenceSampler(options, rules, draw.seed)
        for token in draw.accepted:
            sampler.accept(token)
        if draw.sequence in self._ruled:
            self._ruled[draw.sequence].output.extend(draw.accepted)
        return sampler

    def _run_in_slices(self, step: Step) -> None:
        """Runs the tape so that steps of other engines come between: those of chats are not to wait for long texts."""
        is_cut, copies = self._has_parts and len(step.sequences) == 1, step.copies
        # Where operations stay whole, it is enough to know about how many tokens there are.
        count = len(step.tokens) if is_cut else -(-len(step.tokens) // 256) * 256
        for ops, tokens, _ in self._slices(count, is_cut):
            self._run(step, step.wanted.rows, copies, *ops, *(tokens if is_cut else ()))
            copies = NO_COPIES

    def _slices(self, count: int, is_cut: bool) -> list[Slice]:
        if len(self._known_slices) >= MOST_SLICINGS:
            self._known_slices.clear()
        if (count, is_cut) not in self._known_slices:
            self._known_slices[count, is_cut] = self.tape.slices(count, SLICE_FLOPS, cuts_ops=is_cut)
        return self._known_slices[count, is_cut]

    def _run(self, step: Step, logit_rows: Ids, copies: Ids, *part: int) -> None:
        """Runs the whole tape, or operations [first, last) of it; of a single sequence, for tokens [first, last)."""
        self.native.run(
            step.tokens,
            step.starts,
            step.counts,
            step.block_tables,
            logit_rows,
            copies,
            step.source_tables,
            step.source_lengths,
            None if self._slots is None else self._states(step, self._slots),
            step.second_starts if len(step.second_starts) else None,
            *part,
        )

    def _states(self, step: Step, slots: Rows) -> Ids:
        """Where what is kept of each sequence lies, after how many tokens it is left for others as well, and where."""
        states = np.zeros((len(step.sequences), 3), np.int32)
        states[:, 0] = [slots.row_of(id) for id in step.sequences]
        if len(step.saves):
            states[:, 1] = step.saves[:, 0]
            states[:, 2] = np.where(step.saves[:, 0] > 0, self.sizes.max_num_seqs + step.saves[:, 1], 0)
        return states

    def cross_attention(self, step: Step, heads: Sequence[tuple[int, int]]) -> Logits:
        assert step.source_tables is not None
        assert step.source_lengths is not None
        layers = {layer for layer, _ in heads}
        crossings = [
            (i, op.inputs[0], node)
            for i, op in enumerate(self.tape.ops)
            for node in op.nodes
            if isinstance(node, CrossAttention) and node.layer in layers
        ]
        rows: dict[int, list[list[float]]] = {layer: [] for layer in layers}
        for part in step.parts(self.sizes.max_num_batched_tokens):
            first = 0
            for end, q, node in crossings:
                self._run(part, NONE, NO_COPIES, first, end)
                first = end
                count = len(part.tokens)
                rows[node.layer] += [self.native.read_row(q.number, i, q.columns) for i in range(count)]
        found: dict[tuple[int, int], Logits] = {}
        for _, _, node in crossings:
            layer = node.layer
            keys = self.native.keys(layer, step.source_tables[0], int(step.source_lengths[0]))
            queries = np.array(rows[layer], np.float32)
            for head in (head for at, head in heads if at == layer):
                columns = slice(head * node.head_dim, (head + 1) * node.head_dim)
                scores = node.scale * queries[:, columns] @ keys[head * node.kv_heads // node.heads].T
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                found[layer, head] = weights / weights.sum(axis=1, keepdims=True)
        return np.stack([found[head] for head in heads])


class NativeEncoder:
    """The tape of an encoder, on the cache of its decoder. It is run in slices, so that no step takes long."""

    def __init__(
        self,
        tape: Tape,
        tensors: Mapping[str, StoredTensor],
        decoder: _native.Executor,
        cache: Mapping[str, Any],
        positions: int,
        release: Callable[[str], None],
    ):
        self.native = _native.Executor(
            **cache, max_tokens=positions, max_sequences=1, max_logit_rows=1, vocab_size=1, decoder=decoder
        )
        Loader(self.native, tape, tensors, cache["dtype"], release).load()
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
