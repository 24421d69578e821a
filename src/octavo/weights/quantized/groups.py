"""Matrices whose columns have scales by groups, in one of our formats of blocks.

A group's scale stands in each of our blocks that it covers, so groups of any size fit whose borders are also ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.weights.blocks import Bytes, Floats
from octavo.weights.layout import E2M1, E4M3, FP4, LAYOUTS, NF4, Layout
from octavo.weights.tensor import Rearranged

Indices = NDArray[np.int64]
Order = NDArray[np.int32]

# What a code stands for, by the kind of format; of U4 and U8 it is the code itself.
_TABLES = {"E4M3": E4M3, "E2M1": E2M1, "NF4": NF4, "FP4": FP4}
_SIZES = (128, 64, 32, 16)


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Codes [rows, columns] in uint8; scales, and minima if the kind has them, [rows, groups] in float32."""

    codes: Bytes
    scales: Floats
    minima: Floats | None = None


def rearranged(
    kind: str, group_of: Indices, arrays: tuple[NDArray[Any], ...], read: Callable[..., Groups]
) -> tuple[str, Rearranged, Order | None]:
    """The format of a matrix, how its bytes are made of a file's `arrays`, whose groups `read` finds, and their order.

    `group_of` is the group of each column. The format is the one with the largest blocks that have one group each. If
    neighbouring columns are of different groups (GPTQ's act-order), these are blocks of columns in the order of their
    groups; see `StoredTensor.column_order`. Where there is no such format, it is F32.
    """
    order, found = None, _blocks_of(kind, group_of)
    if found is None:
        order = np.argsort(group_of, kind="stable").astype(np.int32)
        found = _blocks_of(kind, group_of[order])
    if found is None:
        return "F32", Rearranged(arrays, partial(_decode, read, _TABLES.get(kind), group_of)), None
    layout, group_of_block = found
    one_group = bool((group_of_block == group_of_block[0]).all())
    return layout.name, Rearranged(arrays, partial(_pack, read, layout, group_of_block, order), one_group), order


def _blocks_of(kind: str, group_of: Indices) -> tuple[Layout, NDArray[np.int32]] | None:
    """The format with the largest blocks that have one group each, and which, if there is one."""
    for size in _SIZES:
        layout = LAYOUTS.get(f"{kind}_G{size}")
        blocks = group_of.reshape(-1, size if len(group_of) % size == 0 else 1)
        if layout is not None and blocks.shape[1] == size and (blocks == blocks[:, :1]).all():
            return layout, blocks[:, 0].astype(np.int32)
    return None


def as_bytes(values: Floats) -> Bytes:
    return np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(-1)


def _pack(
    read: Callable[..., Groups],
    layout: Layout,
    group_of_block: NDArray[np.int32],
    column_order: Order | None,
    *arrays: NDArray[Any],
) -> Bytes:
    """Blocks of a scale, a minimum if there is one, and codes, as `layout._grouped` has them."""
    groups = read(*arrays)
    numbers = [groups.scales] if groups.minima is None else [groups.scales, groups.minima]
    bits = (layout.block_bytes - 4 * len(numbers)) * 8 // layout.block
    out = np.empty((len(groups.codes), len(group_of_block) * layout.block_bytes), np.uint8)
    _native.to_blocks(groups.codes, numbers, group_of_block, bits, column_order, out)
    return out.reshape(-1)


def _decode(read: Callable[..., Groups], table: Floats | None, group_of: Indices, *arrays: NDArray[Any]) -> Bytes:
    groups = read(*arrays)
    values = groups.codes.astype(np.float32) if table is None else table[groups.codes]
    values *= groups.scales[:, group_of]
    if groups.minima is not None:
        values += groups.minima[:, group_of]
    return as_bytes(values)
