"""What a step is on the device: which tokens, where their keys go, who attends to what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.executor import base
from octavo.executor.rows import Rows
from octavo.executor.torch.ops import Ragged

SDPA_TOKENS = 128  # a shorter prompt is cheaper in the paged kernel, which takes many sequences at once

Ints = np.ndarray[Any, np.dtype[np.integer[Any]]]


class TokenTable(Rows):
    """The tokens of sequences on the device: int32 [rows, longest sequence].

    A drawn token is written here by the device, so that the next step can begin before the host knows it.
    """

    def __init__(self, max_sequences: int, max_model_len: int, device: torch.device):
        super().__init__(max_sequences)
        self.width = max_model_len + 1
        self.tokens = torch.zeros(max_sequences, self.width, dtype=torch.int32, device=device)


@dataclass(frozen=True, slots=True)
class Kept:
    """A state that is to be left in a `row` as it is before the last tokens of a sequence have been computed."""

    begin: int  # the first row of the step that is the sequence's
    start: int  # the position of its token
    count: int  # rows of it before the state
    row: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A step's numbers on the host.

    `rows` are int64 [2 + groups of layers, tokens]: places in the token table, positions, and slots in each group.
    """

    rows: Ints
    ragged: Sequence[tuple[Ints, Ints]]  # for paged attention: (starts, counts, rows) [3, n]; tables [groups, n, width]
    fresh: list[tuple[int, int]]  # rows of prompts without history
    is_decode: bool  # one token for every sequence
    table_rows: Ints  # of the sequences, in the token table
    prompts: list[tuple[int, int]] = field(default_factory=list)  # the rows [begin, end) of whoever has several
    kept: tuple[Kept, ...] = ()
    sources: tuple[Ints, Ints] | None = None  # of each row: its source's length [tokens], block table [tokens, width]
    segments: Ints | None = None  # of each row: 1 in a second text, else 0; None: there is none


@dataclass(frozen=True, slots=True)
class Step:
    """The inputs of a program, on the device: int64 [tokens]; `ragged` is for paged attention, by groups of layers."""

    places: Tensor  # in the flat token table
    positions: Tensor
    slots: Tensor  # [groups, tokens]
    ragged: tuple[tuple[Ragged, ...], ...]
    fresh: list[tuple[int, int]]
    prompts: list[tuple[int, int]] = field(default_factory=list)  # likewise, of all sequences that have several
    kept: tuple[Kept, ...] = ()
    sources: Ragged | None = None
    segments: Tensor | None = None  # int64 [tokens]
    features: Tensor | None = None  # float32 [rows, columns], of an encoder

    def spans(self) -> list[tuple[int, int]]:
        """The rows [begin, end) of each sequence; waits for the device."""
        numbers = [zip(part.rows.tolist(), part.counts.tolist(), strict=True) for part in self.ragged[0]]
        return [*self.fresh, *((row, row + count) for part in numbers for row, count in part if count)]


def lay_out(step: base.Step, table: TokenTable, sizes: base.Sizes, longest_fresh: int) -> Layout:
    """Prompts of more than `longest_fresh` tokens need a window, which only paged attention has."""
    starts, counts, block_size = step.starts.astype(np.int64), step.counts.astype(np.int64), sizes.block_size
    first_blocks = np.array([group.first for group in sizes.groups], np.int32)
    by_group = step.block_tables.reshape(len(counts), len(first_blocks), -1).transpose(1, 0, 2)
    tables = by_group - first_blocks[:, None, None]  # pages of each group are numbered from 0
    first_rows = np.cumsum(counts) - counts
    of_row = np.repeat(np.arange(len(counts)), counts)
    positions = np.arange(len(of_row)) - first_rows[of_row] + starts[of_row]
    slots = tables[:, of_row, positions // block_size] * block_size + positions % block_size
    table_rows = np.array([table.row_of(sequence) for sequence in step.sequences])
    places = table_rows[of_row] * table.width + positions

    fresh = (starts == 0) & (counts >= SDPA_TOKENS) & (counts <= longest_fresh)
    decodes = counts == 1
    sequences = np.stack([starts, counts, first_rows])
    ragged = [(sequences[:, of], tables[:, of]) for of in (decodes, ~decodes & ~fresh) if of.any()]
    spans = [(int(row), int(row + count)) for row, count in zip(first_rows[fresh], counts[fresh], strict=True)]
    seen = None
    if step.source_tables is not None and step.source_lengths is not None:
        seen = step.source_lengths[of_row], step.source_tables[of_row]
    segments = None
    if len(step.second_starts):
        second = step.second_starts[of_row]
        segments = ((second > 0) & (positions >= second)).astype(np.int64)
    kept = [
        Kept(int(first_rows[i]), int(starts[i]), int(tokens - starts[i]), len(table.tokens) + int(snapshot))
        for i, (tokens, snapshot) in enumerate(step.saves.tolist())
        if 0 < tokens < starts[i] + counts[i]
    ]
    several = [(int(row), int(row + count)) for row, count in zip(first_rows, counts, strict=True) if count > 1]
    rows = np.stack([places, positions, *slots])
    return Layout(rows, ragged, spans, bool(decodes.all()), table_rows, several, tuple(kept), seen, segments)


def to_device(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous copy of an array or of lists, which the host does not wait for."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def make_step(layout: Layout, device: torch.device) -> Step:
    rows = to_device(layout.rows, torch.int64, device)
    parts = []
    for numbers, tables in layout.ragged:
        on_device = to_device(numbers, torch.int32, device), to_device(tables, torch.int32, device)
        parts.append(of_groups(*on_device, int(numbers[1].max())))
    ragged = tuple(zip(*parts, strict=True)) or ((),) * len(rows[2:])
    sources = _sources(layout, device)
    segments = None if layout.segments is None else to_device(layout.segments, torch.int64, device)
    return Step(rows[0], rows[1], rows[2:], ragged, layout.fresh, layout.prompts, layout.kept, sources, segments)


def of_groups(sequences: Tensor, tables: Tensor, max_count: int) -> tuple[Ragged, ...]:
    """Some sequences, (starts, counts, rows) int32 [3, n], with their `tables` of each group of layers."""
    starts, counts, rows = sequences
    return tuple(Ragged(one, starts, counts, rows, max_count) for one in tables)


def _sources(layout: Layout, device: torch.device) -> Ragged | None:
    """Each row as a sequence of its own, whose newest token is the last position of its source: it sees all of them."""
    if layout.sources is None:
        return None
    lengths, tables = layout.sources
    numbers = np.stack([lengths - 1, np.ones_like(lengths), np.arange(len(lengths))])
    starts, counts, rows = to_device(numbers, torch.int32, device)
    return Ragged(to_device(tables, torch.int32, device), starts, counts, rows, max_count=1)


def make_encoder_step(source: base.Encode, block_size: int, device: torch.device) -> Step:
    """What an encoder's program needs of a source."""
    positions = np.arange(source.num_positions)
    slots = source.blocks[positions // block_size] * block_size + positions % block_size
    on_device = to_device(np.stack([positions, slots]), torch.int64, device)
    features = to_device(source.features, torch.float32, device)
    return Step(on_device[0], on_device[0], on_device[1:], ((),), [], features=features)
