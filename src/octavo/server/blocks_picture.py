"""A picture of a KV cache: whose each block is, as runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from octavo.engine.view import EngineView

MOST_CELLS = 16384
PART = 4096  # numbers that are read at a time: others have the interpreter in between
# Codes of owners, by what is shown of a cell of several blocks: the largest code of them. A request's n comes on top.
_FREE, _CACHED, _SHARED = range(3)
_NAMES = ("free", "cached", "shared")
Owner = int | str


def picture(
    view: EngineView, tables_of: Mapping[int, Sequence[list[int]]], most_cells: int = MOST_CELLS
) -> tuple[int, list[tuple[int, Owner]]]:
    """How many blocks a cell is, and the runs of cells: how many, and their owner, "free", "cached" or "shared".

    `tables_of` has the blocks of each request, by its small number. A cell of several blocks shows a request that owns
    one of them, or else what is shared, cached or free, in this order.
    """
    codes = np.full(view.num_blocks, _CACHED, np.int32)
    _set(codes, view, view.free, _FREE)
    owned = np.zeros(view.num_blocks, np.bool_)
    for n, tables in tables_of.items():
        mine = np.array(list(set().union(*tables)), np.int64) - view.first_block
        codes[mine] = np.where(owned[mine], _SHARED, n + _SHARED)
        owned[mine] = True
    per_cell = -(-view.num_blocks // most_cells)
    if per_cell > 1:
        codes = np.maximum.reduceat(codes, np.arange(0, len(codes), per_cell))
    begins = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
    lengths = np.diff(np.append(begins, len(codes)))
    runs = zip(lengths.tolist(), codes[begins].tolist(), strict=True)
    return per_cell, [(length, _NAMES[code] if code <= _SHARED else code - _SHARED) for length, code in runs]


def _set(array: np.ndarray, view: EngineView, blocks: list[int], value: int) -> None:
    for begin in range(0, len(blocks), PART):
        array[np.array(blocks[begin : begin + PART]) - view.first_block] = value
