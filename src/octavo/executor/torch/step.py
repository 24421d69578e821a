"""What a step is on the device: which tokens, where their keys go, who attends to what."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.executor.torch.ops import Ragged
from octavo.request import UNKNOWN_TOKEN, Chunk, Sequence, Source, StepPlan

SDPA_TOKENS = 128  # a shorter prompt is cheaper in the paged kernel, which takes many sequences at once

Ints = np.ndarray[Any, np.dtype[np.integer[Any]]]


class TokenTable:
    """The tokens of sequences on the device: int32 [rows, longest sequence].

    A drawn token is written here by the device, so that the next step can begin before the host knows it. Rows are a
    cache: a sequence that no step needed for a while loses its row, and gets its tokens from the host again. Those of
    the last two steps, at most `max_sequences` each, always keep theirs.
    """

    def __init__(self, max_sequences: int, max_model_len: int, device: torch.device):
        self.width = max_model_len + 1
        self.tokens = torch.zeros(2 * max_sequences, self.width, dtype=torch.int32, device=device)
        self._row_of: OrderedDict[Sequence, int] = OrderedDict()  # least recently used first
        self._present: dict[Sequence, int] = {}  # leading tokens that are there

    def row_of(self, sequence: Sequence) -> int:
        """The sequence's row, from now on if it has none."""
        if sequence in self._row_of:
            self._row_of.move_to_end(sequence)
        elif len(self._row_of) < len(self.tokens):
            self._row_of[sequence] = len(self._row_of)
        else:
            oldest, row = self._row_of.popitem(last=False)
            del self._present[oldest]
            self._row_of[sequence] = row
        self._present.setdefault(sequence, 0)
        return self._row_of[sequence]

    def lacking(self, chunk: Chunk) -> tuple[int, list[int]]:
        """Where the tokens begin that the device lacks up to the chunk's end, as an index of the flat table; these."""
        sequence, end = chunk.sequence, chunk.start + chunk.count
        row, present = self.row_of(sequence), self._present[sequence]
        self._present[sequence] = max(present, end)
        tokens = sequence.tokens[present:end]
        assert UNKNOWN_TOKEN not in tokens[-1:]
        return row * self.width + present, tokens

    def place_of_next(self, chunk: Chunk) -> int:
        """Where the token that is drawn after the chunk is written: an index of the flat table."""
        end = chunk.start + chunk.count
        self._present[chunk.sequence] = end + 1
        return self.row_of(chunk.sequence) * self.width + end


@dataclass(frozen=True, slots=True)
class Layout:
    """A step's numbers on the host. `rows` are int64 [3, tokens]: places in the token table, positions, slots."""

    rows: Ints
    groups: list[tuple[Ints, Ints]]  # for paged attention: (starts, counts, rows) [3, n], and block tables [n, width]
    fresh: list[tuple[int, int]]  # rows of prompts without history
    is_decode: bool  # one token for every sequence
    sources: tuple[Ints, Ints] | None = None  # of each row: its source's length [tokens], block table [tokens, width]


@dataclass(frozen=True, slots=True)
class Step:
    """The inputs of a program, on the device: int64 [tokens] each, and the groups of paged attention."""

    places: Tensor  # in the flat token table
    positions: Tensor
    slots: Tensor
    groups: tuple[Ragged, ...]
    fresh: list[tuple[int, int]]
    sources: Ragged | None = None
    features: Tensor | None = None  # float32 [rows, columns], of an encoder

    def spans(self) -> list[tuple[int, int]]:
        """The rows [begin, end) of each sequence; waits for the device."""
        numbers = [zip(group.rows.tolist(), group.counts.tolist(), strict=True) for group in self.groups]
        return [*self.fresh, *((row, row + count) for group in numbers for row, count in group if count)]


def lay_out(plan: StepPlan, table: TokenTable, block_size: int, longest_fresh: int) -> Layout:
    """Prompts of more than `longest_fresh` tokens need a window, which only paged attention has."""
    chunks = plan.chunks
    starts = np.array([chunk.start for chunk in chunks])
    counts = np.array([chunk.count for chunk in chunks])
    first_rows = np.cumsum(counts) - counts
    of_row = np.repeat(np.arange(len(chunks)), counts)
    positions = np.arange(len(of_row)) - first_rows[of_row] + starts[of_row]
    tables = _block_tables([chunk.sequence.blocks for chunk in chunks])
    slots = tables[of_row, positions // block_size] * block_size + positions % block_size
    table_rows = np.array([table.row_of(chunk.sequence) for chunk in chunks])
    places = table_rows[of_row] * table.width + positions

    fresh = (starts == 0) & (counts >= SDPA_TOKENS) & (counts <= longest_fresh)
    decodes = counts == 1
    sequences = np.stack([starts, counts, first_rows])
    groups = [(sequences[:, of], tables[of]) for of in (decodes, ~decodes & ~fresh) if of.any()]
    spans = [(int(row), int(row + count)) for row, count in zip(first_rows[fresh], counts[fresh], strict=True)]
    sources = [chunk.request.source for chunk in chunks]
    seen = None
    if all(source is not None for source in sources):
        lengths = np.array([source.num_positions for source in sources if source is not None])
        seen = lengths[of_row], _block_tables([source.place.blocks for source in sources if source])[of_row]
    return Layout(np.stack([places, positions, slots]), groups, spans, bool(decodes.all()), seen)


def _block_tables(tables: list[list[int]]) -> Ints:
    width = max(map(len, tables))
    return np.array([table + [0] * (width - len(table)) for table in tables])


def to_device(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous copy of an array or of lists, which the host does not wait for."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def make_step(layout: Layout, device: torch.device) -> Step:
    places, positions, slots = to_device(layout.rows, torch.int64, device)
    groups = []
    for sequences, tables in layout.groups:
        starts, counts, rows = to_device(sequences, torch.int32, device)
        block_tables = to_device(tables, torch.int32, device)
        groups.append(Ragged(block_tables, starts, counts, rows, int(sequences[1].max())))
    return Step(places, positions, slots, tuple(groups), layout.fresh, _sources(layout, device))


def _sources(layout: Layout, device: torch.device) -> Ragged | None:
    """Each row as a sequence of its own, whose newest token is the last position of its source: it sees all of them."""
    if layout.sources is None:
        return None
    lengths, tables = layout.sources
    numbers = np.stack([lengths - 1, np.ones_like(lengths), np.arange(len(lengths))])
    starts, counts, rows = to_device(numbers, torch.int32, device)
    return Ragged(to_device(tables, torch.int32, device), starts, counts, rows, max_count=1)


def make_encoder_step(source: Source, block_size: int, device: torch.device) -> Step:
    """What an encoder's program needs of a source."""
    positions = np.arange(source.num_positions)
    slots = np.array(source.place.blocks)[positions // block_size] * block_size + positions % block_size
    on_device = to_device(np.stack([positions, slots]), torch.int64, device)
    features = to_device(source.features, torch.float32, device)
    return Step(on_device[0], on_device[0], on_device[1], (), [], features=features)
