"""What an engine and its executor tell each other: a step as plain data, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from octavo.errors import UnsupportedError
from octavo.graph.cache import BlockGroup, LayerCache
from octavo.graph.node import Weight
from octavo.sampling.masks import Bits
from octavo.sampling.options import SamplerOptions

UNUSABLE_LOGITS, ALL_BANNED = -1, -2  # in place of a drawn token: NaN or infinity; every token is banned
Logits = np.ndarray[Any, np.dtype[np.float32]]
Ids = np.ndarray[Any, np.dtype[np.int32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Contents = Callable[[], Bytes]  # to ask is to wait, and any thread may; they are copies
NONE, NO_COPIES = np.zeros(0, np.int32), np.zeros((0, 2), np.int32)


class Draw(NamedTuple):
    """A token to be drawn for a sequence, from row `row` of the wanted logits.

    Executors keep what they derive from the options, and the output so far, until the sequence has ended.
    """

    row: int
    sequence: int  # its id; where several sequences begin at one prompt's end, not that of the computed one
    options: SamplerOptions
    seed: int
    num_output: int  # tokens of the sequence's output
    accepted: tuple[int, ...]  # those of them that were accepted since its last draw: all of them before its first
    mask: int = -1  # the row of the step's masks that says which tokens may be drawn; -1: all


@dataclass(frozen=True, slots=True)
class Encode:
    """A source that is to be encoded, or the rest of one of which `num_slices_done` parts are."""

    source: int  # its id
    features: Logits  # [rows, columns]: what the encoder reads
    blocks: Ids  # [blocks]: where the encoder's output goes
    num_positions: int
    num_slices_done: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """How far an encoder has come."""

    num_slices_done: int
    is_finished: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Of which of a step's rows, each of which is a token, its graph's output is wanted: int32, in rising order."""

    logits: Ids = field(default_factory=lambda: NONE)
    hidden_states: Ids = field(default_factory=lambda: NONE)

    @property
    def rows(self) -> Ids:
        """Those of the one output that a graph has."""
        return self.logits if len(self.logits) else self.hidden_states


class Masks(Protocol):
    """Which tokens may be drawn, as they are being found out on other threads."""

    def result(self) -> Bits:
        """uint32 [masks, words]; bit i % 32 of word i / 32 is set where token i may be drawn. To ask is to wait."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an executor computes at once, as values that could be sent to another process; it changes none of them.

    First it copies what it keeps of sequences for their `forks`, drops it of `ended` ones, and loads snapshots; then it
    encodes, copies blocks, computes the tokens and draws. Snapshots are of what a model keeps beside pages: `saves` are
    made when so many of a sequence's tokens have been computed. Arrays are int32. A token below 0 has been drawn by the
    executor itself, and not been read yet. Of all this, `masks` alone is a promise, which executors wait for when they
    draw.
    """

    sequences: tuple[int, ...] = ()  # ids
    tokens: Ids = field(default_factory=lambda: NONE)  # [tokens], sequence by sequence
    starts: Ids = field(default_factory=lambda: NONE)  # [sequences]: the position of the first token of each
    counts: Ids = field(default_factory=lambda: NONE)  # [sequences]: how many tokens of each
    block_tables: Ids = field(default_factory=lambda: NO_COPIES)  # [sequences, blocks], as `block_tables` makes them
    source_tables: Ids | None = None  # [sequences, blocks], likewise; None if the model has no encoder
    source_lengths: Ids | None = None  # [sequences]: positions
    adapters: Ids = field(default_factory=lambda: NONE)  # [sequences]: ids, 0 for none; empty if nobody has one
    num_proposed: Ids = field(default_factory=lambda: NONE)  # [sequences]: of its last tokens, to be verified; or empty
    copies: Ids = field(default_factory=lambda: NO_COPIES)  # [copies, 2]: source and target blocks
    wanted: Wanted = field(default_factory=Wanted)
    draws: tuple[Draw, ...] = ()
    masks: Masks | None = None
    encode: Encode | None = None
    forks: tuple[tuple[int, int], ...] = ()  # ids (from, to): sequences that go on from where others are
    ended: tuple[int, ...] = ()  # ids of sequences and sources that have ended, or begin anew
    loads: tuple[tuple[int, int], ...] = ()  # (snapshot, id): sequences that go on from there
    saves: Ids = field(default_factory=lambda: NO_COPIES)  # [sequences, 2]: (tokens, snapshot) or 0
    second_starts: Ids = field(default_factory=lambda: NONE)  # [sequences]: where second texts begin, or 0; or empty

    def check_supported(self, output: str) -> None:
        """Raises UnsupportedError, with its name, for what no executor does yet, or another output than the graph's."""
        asked = {
            "adapters": len(self.adapters) and self.adapters.any(),
            "num_proposed": len(self.num_proposed) and self.num_proposed.any(),
        }
        for name, value in asked.items():
            if value:
                raise UnsupportedError(name, True, "this executor computes tokens that are known, no more")
        for name in {"logits", "hidden_states"} - {output}:
            if len(getattr(self.wanted, name)):
                raise UnsupportedError(name, True, f"the graph of this executor ends in {output}")

    def parts(self, size: int) -> Iterator[Step]:
        """A step of one sequence as several of at most `size` tokens."""
        for first in range(0, len(self.tokens), size):
            tokens = self.tokens[first : first + size]
            counts = np.array([len(tokens)], np.int32)
            yield replace(self, tokens=tokens, starts=self.starts + np.int32(first), counts=counts)


def block_tables(sequences: Sequence[Sequence[list[int]]]) -> Ids:
    """Ids of the blocks of sequences, of each group of layers: int32 [sequences, groups * longest table].

    The tables of a sequence follow each other, each of them padded with zeros.
    """
    width = max(len(tables[0]) for tables in sequences)
    padded = [[table + [0] * (width - len(table)) for table in tables] for tables in sequences]
    return np.array(padded, np.int32).reshape(len(sequences), -1)


class Sampled(Protocol):
    """Tokens and what is reported with them, one entry per draw; see `octavo._native.SampleResult`."""

    @property
    def tokens(self) -> Ids:
        """UNUSABLE_LOGITS or ALL_BANNED where there is none."""

    @property
    def logprobs(self) -> Logits: ...

    @property
    def ranks(self) -> Ids: ...

    def top(self, i: int) -> tuple[Ids, Logits]: ...


class StepResult(Protocol):
    """What a step gives. The step may still be running: to read tokens or logits is to wait for them."""

    @property
    def logits(self) -> Logits:
        """float32 [wanted rows, vocabulary], valid until the next step is begun."""

    @property
    def hidden_states(self) -> Logits:
        """float32 [wanted rows, columns] of a graph that ends in them: likewise."""

    @property
    def sampled(self) -> Sampled: ...

    @property
    def encoded(self) -> Encoded | None:
        """How far the source is that was to be encoded."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an executor must have room for: KV blocks, the limits of a step, and the longest sequence.

    Layers have groups of blocks by their `windows`, the widest first; `num_blocks` are those of the first group.
    """

    vocab_size: int
    num_blocks: int
    block_size: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_logit_rows: int
    max_model_len: int
    source_positions: int = 0  # of what an encoder reads
    num_snapshots: int = 0  # of states that are kept for sequences to go on from
    windows: tuple[int | None, ...] = (None,)

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """A group with a narrower window than the first has no more blocks than sequences can hold at once within it,
        and as many again for beginnings that come again."""
        groups: list[BlockGroup] = []
        first = 0
        for window in self.windows:
            count = self.num_blocks
            if groups and window is not None:
                held = self.max_num_seqs * (window + self.block_size) + self.max_num_batched_tokens
                count = min(count, 2 * -(-held // self.block_size))
            groups.append(BlockGroup(first, count, window))
            first += count
        return tuple(groups)

    def group_of(self, layer: LayerCache) -> int:
        """The number of a layer's group."""
        return self.windows.index(layer.window) if layer.window in self.windows else 0


class Footprint(Protocol):
    """What an executor takes for a graph, in a model of `dtype`: bytes."""

    @property
    def layers(self) -> Sequence[LayerCache]:
        """Of the KV cache."""

    @property
    def state_bytes(self) -> int:
        """Of what layers keep of a sequence beside its pages."""

    def weight_bytes(self, dtype: str) -> int:
        """Of all weights, as they lie in memory."""

    def bytes_of(self, weight: Weight, dtype: str) -> int:
        """Of one of them, without what it is padded with."""

    def workspace_bytes(self, dtype: str, sizes: Sizes) -> int:
        """Of everything that steps of these sizes need besides."""

    def page_bytes(self, dtype: str, block_size: int) -> tuple[int, ...]:
        """Of a block of a KV cache of `dtype`, of each group of layers; 0 for a model without one."""


class CacheMemory(Protocol):
    """What an executor keeps of tokens, as bytes: to be kept elsewhere, too, and brought back, between steps."""

    @property
    def block_bytes(self) -> tuple[int, ...]:
        """Of a block, of each group of layers."""

    @property
    def state_bytes(self) -> int:
        """Of a snapshot; 0 if there are none."""

    def read_blocks(self, blocks: Sequence[int]) -> Contents:
        """The contents of blocks, one of each group, one behind the other, as steps that have begun leave them."""

    def write_block(self, block: int, contents: Bytes) -> None:
        """Gives a block the contents that one had in another process: uint8 [bytes]. Later steps see them."""

    def read_state(self, snapshot: int) -> Contents:
        """The contents of a snapshot, likewise."""

    def write_state(self, snapshot: int, contents: Bytes) -> None:
        """Gives a snapshot the contents that one had in another process: uint8 [bytes]."""


class Executor(Protocol):
    """Runs steps of one model. It owns the weights and the KV cache."""

    @property
    def sizes(self) -> Sizes: ...

    @property
    def output(self) -> str:
        """What its graph ends in: "logits" or "hidden_states"."""

    @property
    def runs_ahead(self) -> bool:
        """Whether a step may be begun while the tokens of the one before it are still unknown to the host."""

    def reset(self) -> None:
        """Forgets all sequences and sources: another engine begins."""

    def give_back(self) -> None:
        """Gives the memory of the KV cache and of steps back to the system until it is used again; weights stay.

        All sequences are forgotten. Raises UnsupportedError.
        """

    def cross_attention(self, step: Step, heads: Sequence[tuple[int, int]]) -> Logits:
        """What the tokens of a sequence look at in its source: float32 [heads, tokens, positions].

        `heads` are (layer, head). The step is of this sequence alone, and may be longer than others: its tokens have
        been computed, and are computed once more.
        """

    @property
    def memory(self) -> CacheMemory: ...

    def run(self, step: Step) -> StepResult:
        """Begins a step. Of the source that is to be encoded, some or all is.

        Raises UnsupportedError for what the executor does not have, ValueError for a malformed step.
        """
