"""Matrices of 8-bit floats (E4M3), with scales for a tensor, its rows, groups of columns, or blocks of both.

weight            [N, K]                  w
weight_scale      [], [1]                 s, of the tensor
                  [N], [N, 1]             of rows
                  [N, G]                  of K / G columns
                  [ceil(N/B), ceil(K/C)]  of blocks of B rows and C columns; DeepSeek calls it weight_scale_inv

W = s * w
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.weights.config_reader import ConfigReader
from octavo.weights.dtypes import floats
from octavo.weights.quantized.groups import Groups
from octavo.weights.quantized.method import SCALE_DTYPES, Method, Parts, Shape
from octavo.weights.tensor import StoredTensor

Block = tuple[int, int]  # rows, columns


class FP8(Method):
    names = ("fp8", "fbgemm_fp8")
    suffixes = (".weight_scale", ".weight_scale_inv")

    def __init__(self, config: ConfigReader):
        super().__init__(config)
        if (fmt := config.text("fmt", "e4m3")) not in ("e4m3", "float8_e4m3fn"):
            raise config.fail("fmt", f"{fmt!r} is not supported, only e4m3")
        self.block = block_size(config, "weight_block_size")

    def read(self, parts: Parts) -> StoredTensor:
        return e4m3_matrix(parts, next(suffix for suffix in self.suffixes if suffix in parts), self.block)


def block_size(config: ConfigReader, field: str) -> Block | None:
    if config.values.get(field) is None:
        return None
    sizes = config.integers(field, low=1)
    if len(sizes) != 2:
        raise config.fail(field, f"must be two integers, got {sizes}")
    return sizes[0], sizes[1]


def e4m3_matrix(parts: Parts, suffix: str, block: Block | None, sizes: Collection[int] = ()) -> StoredTensor:
    """A matrix of 8-bit floats, the scales of which are the part `suffix`.

    They may be of blocks if `block` is given, and of groups if they have one of `sizes`.
    """
    codes = parts.array(".weight", ("F8_E4M3",), (None, None))
    rows, columns = codes.shape
    shapes: list[Shape] = [(), (1,), (1, 1), (rows,), (rows, None if sizes else 1)]
    if block is not None:
        grid = -(-rows // block[0]), -(-columns // block[1])
        shapes += [grid, (grid[0], 1, grid[1], 1)]
    scales = parts.scales(suffix, (*SCALE_DTYPES, "F8_E8M0", "U8"), *shapes)
    if block is not None and scales.shape in shapes[-2:]:
        height, group_of = block[0], parts.columns(suffix, columns) // block[1]
    else:
        height = rows if scales.size == 1 else 1
        group_of = parts.even_groups(suffix, columns, max(1, scales.size // rows), sizes)
    dtype = parts.dtype(suffix)

    def read(codes: NDArray[Any], scales: NDArray[Any]) -> Groups:
        of_rows = floats(scales, dtype).reshape(-(-rows // height), -1)
        return Groups(codes, np.repeat(of_rows, height, axis=0)[:rows])

    return parts.grouped("E4M3", group_of, (codes, scales), read, rows)
