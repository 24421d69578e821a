"""Products of each token's experts: rows of one expert share the tiles of its matrix, which no other expert reads."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from octavo.executor.torch.kernels import quantized
from octavo.executor.torch.kernels.quantized import load_codes, values_of, warps_and_stages
from octavo.executor.torch.ops import Pairs
from octavo.executor.torch.products import EXPERT_ROWS
from octavo.executor.torch.quantized import Matrix, Quantized

TILE_COLUMNS, TILE_INPUTS = 64, 64


def multiply_experts(
    x: Tensor, matrix: Matrix, bias: Tensor | None, pairs: Pairs, factors: Tensor | None, out: Tensor
) -> None:
    """See `ops.multiply_experts`. How many rows an expert has, only the device knows: some programs may find none."""
    (count, columns), experts = out.shape, len(pairs.starts) - 1
    rows = rows_of_tile(count, experts) if x.dtype.itemsize < 4 else EXPERT_ROWS[0]
    grid = count // rows + min(experts, count), triton.cdiv(columns, TILE_COLUMNS)
    options = {
        "EACH": count // len(x), "HAS_BIAS": bias is not None, "HAS_FACTORS": factors is not None,
        "EXPERT_TILE": triton.next_power_of_2(experts), "ROWS": rows, "COLUMNS": TILE_COLUMNS,
        "PRECISION": "ieee" if x.dtype.itemsize == 4 else "tf32", **warps_and_stages(rows),
    }  # fmt: skip
    of_pairs = (pairs.order, pairs.starts, x if bias is None else bias, x if factors is None else factors, out)
    if not isinstance(matrix, Quantized):
        kernel: Any = multiply
        kernel[grid](x, matrix, *of_pairs, experts, columns, matrix.shape[1], INPUTS=TILE_INPUTS, **options)
        return
    row_bytes, sizes = matrix.codes.shape[1], quantized.constants(matrix)
    sizes["TILE_BYTES"] = (
        sizes["TILE_BYTES"] if matrix.form.bits == 8 else TILE_INPUTS
    )  # more would take more registers
    kernel = multiply_packed
    kernel[grid](
        x, *quantized.pointers(matrix), *of_pairs, experts, columns, matrix.columns, row_bytes,
        matrix.scales.shape[1], quantized.steps_of_row(matrix), **sizes, **options,
    )  # fmt: skip


def rows_of_tile(pairs: int, experts: int) -> int:
    """So many that an expert of average popularity needs one tile, if there are such."""
    return next((rows for rows in EXPERT_ROWS if rows * experts >= pairs), EXPERT_ROWS[-1])


@triton.jit
def multiply(
    x, matrix, order, starts, bias, factors, out, experts, columns, inputs,
    EACH: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FACTORS: tl.constexpr, EXPERT_TILE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INPUTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (rows, columns): a tile of the product of one expert."""
    expert, pair, real = find_pairs(order, starts, experts, EXPERT_TILE, ROWS)
    if expert < experts:
        column, exists, wide, x_row = find_rows(x, expert, pair, columns, inputs, EACH, COLUMNS)
        matrix_row = matrix + wide * inputs
        total = tl.zeros((COLUMNS, ROWS), tl.float32)
        for at in range(0, inputs, INPUTS):
            inp = at + tl.arange(0, INPUTS)
            inside = inp < inputs
            weight = tl.load(matrix_row[:, None] + inp[None, :], mask=exists[:, None] & inside[None, :], other=0.0)
            x_tile = tl.load(x_row[None, :] + inp[:, None], mask=inside[:, None] & real[None, :], other=0.0)
            total = tl.dot(weight, x_tile, total, input_precision=PRECISION)
        store(total, bias, factors, out, expert, pair, column, real, exists, columns, HAS_BIAS, HAS_FACTORS)


@triton.jit
def multiply_packed(
    x, codes, scales, minima, scale_steps, minimum_steps, table, order, starts, bias, factors, out,
    experts, columns, inputs, row_bytes, groups, steps,
    CODES: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, OFFSET: tl.constexpr,
    HAS_MINIMA: tl.constexpr, HAS_STEPS: tl.constexpr, TILE_BYTES: tl.constexpr,
    EACH: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FACTORS: tl.constexpr, EXPERT_TILE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The same, of matrices that are taken apart as they are read."""
    expert, pair, real = find_pairs(order, starts, experts, EXPERT_TILE, ROWS)
    if expert < experts:
        column, exists, wide, x_row = find_rows(x, expert, pair, columns, inputs, EACH, COLUMNS)
        total = tl.zeros((COLUMNS, ROWS), tl.float32)
        for at in range(0, row_bytes, TILE_BYTES):
            code = load_codes(codes, wide, exists, at, row_bytes, WIDTH, TILE_BYTES)
            for part in tl.static_range(8 // BITS):
                values = values_of(
                    code, part, at, wide, exists, scales, minima, scale_steps, minimum_steps, table, inputs, groups,
                    steps, CODES, BITS, GROUP, WIDTH, OFFSET, HAS_MINIMA, HAS_STEPS, TILE_BYTES,
                )  # fmt: skip
                byte = at + tl.arange(0, TILE_BYTES)
                inp = (byte // WIDTH * (8 // BITS) + part) * WIDTH + byte % WIDTH
                inside = (inp < inputs)[:, None] & real[None, :]
                x_tile = tl.load(x_row[None, :] + inp[:, None], mask=inside, other=0.0)
                weight = tl.reshape(values, (COLUMNS, TILE_BYTES)).to(x_tile.dtype)
                total = tl.dot(weight, x_tile, total, input_precision=PRECISION)
        if GROUP == 0:
            total *= tl.load(scales + wide, mask=exists, other=0.0)[:, None]
        store(total, bias, factors, out, expert, pair, column, real, exists, columns, HAS_BIAS, HAS_FACTORS)


@triton.jit
def find_pairs(order, starts, experts, EXPERT_TILE: tl.constexpr, ROWS: tl.constexpr):
    """The program's expert, its pairs, and which of them there are; an expert beyond the last where it has none."""
    tile = tl.program_id(0)
    one = tl.arange(0, EXPERT_TILE)
    begins = tl.load(starts + one, mask=one < experts, other=0).to(tl.int32)
    ends = tl.load(starts + one + 1, mask=one < experts, other=0).to(tl.int32)
    tiles = (ends - begins + ROWS - 1) // ROWS
    last = tl.cumsum(tiles, 0)
    expert = tl.sum((last <= tile).to(tl.int32), 0)
    mine = one == expert
    place = tl.sum(tl.where(mine, begins + (tile - last + tiles) * ROWS, 0), 0) + tl.arange(0, ROWS)
    real = place < tl.sum(tl.where(mine, ends, 0), 0)
    return expert, tl.load(order + place, mask=real, other=0), real


@triton.jit
def find_rows(x, expert, pair, columns, inputs, EACH: tl.constexpr, COLUMNS: tl.constexpr):
    """The program's columns, which of them there are, their rows in the matrices of all experts, and those of x."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return column, column < columns, (expert * columns + column).to(tl.int64), x + (pair // EACH) * inputs


@triton.jit
def store(
    total, bias, factors, out, expert, pair, column, real, exists, columns,
    HAS_BIAS: tl.constexpr, HAS_FACTORS: tl.constexpr,
):  # fmt: skip
    if HAS_BIAS:
        total += tl.load(bias + expert * columns + column, mask=exists, other=0.0)[:, None]
    if HAS_FACTORS:
        total *= tl.load(factors + pair, mask=real, other=0.0)[None, :]
    place = out + pair[None, :] * columns + column[:, None]
    tl.store(place, total.to(out.dtype.element_ty), mask=exists[:, None] & real[None, :])
