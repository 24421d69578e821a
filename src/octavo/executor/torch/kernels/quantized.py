"""Quantized matrices: a product that takes weights apart as it reads them, for few rows, and the weights themselves.

A tile is [rows of the matrix, blocks, bytes of a block]. All columns in the low halves of a block's bytes have one
scale, and so have those in the high ones; so scales are read once for each block.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.executor.torch.kernels.chip import multiprocessors
from octavo.executor.torch.quantized import Quantized

TILE_ROWS = 64  # the least that Hopper's matrix instructions take
TILE_BYTES = 128  # of a row at once: a line of the cache
MOST_SPLITS = 16
LEAST_TILES_OF_SPLIT = 2
MERGED = 1024  # columns that a program adds up


def multiply_quantized(
    x: Tensor, matrix: Quantized, bias: Tensor | None, out: Tensor, splits: int | None = None
) -> None:
    """See `ops.multiply_quantized`. `splits` is for tests; by default the device decides."""
    (rows, columns), row_bytes = out.shape, matrix.codes.shape[1]
    programs, x_rows = triton.cdiv(columns, TILE_ROWS), max(16, triton.next_power_of_2(rows))
    if splits is None:
        splits = _splits(programs, row_bytes, x.device)
    partial = out if splits == 1 else torch.empty(splits, rows, columns, dtype=torch.float32, device=x.device)
    kernel, sizes = cast(Any, multiply), constants(matrix)
    kernel[programs, splits](
        x, *pointers(matrix), x if bias is None else bias, partial, rows, columns, matrix.columns, row_bytes,
        matrix.scales.shape[1], steps_of_row(matrix), partial.stride(-2), **sizes,
        SPLITS=splits, HAS_BIAS=bias is not None and splits == 1,
        X_ROWS=x_rows, TILE_ROWS=TILE_ROWS,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", **warps_and_stages(x_rows),
    )  # fmt: skip
    if splits > 1:
        merge: Any = add_splits
        merge[rows, triton.cdiv(columns, MERGED)](
            partial, x if bias is None else bias, out, rows, columns, out.stride(0),
            SPLITS=splits, HAS_BIAS=bias is not None, TILE=MERGED,
        )  # fmt: skip


def dequantize(matrix: Quantized, out: Tensor) -> None:
    """See `ops.dequantize`."""
    rows, row_bytes = matrix.codes.shape
    kernel, sizes = cast(Any, unpack), constants(matrix)
    kernel[triton.cdiv(rows, TILE_ROWS // 4), triton.cdiv(row_bytes, sizes["TILE_BYTES"])](
        *pointers(matrix), out, rows, matrix.columns, row_bytes, matrix.scales.shape[1], steps_of_row(matrix),
        **sizes, TILE_ROWS=TILE_ROWS // 4,
    )  # fmt: skip


def warps_and_stages(x_rows: int) -> dict[str, int]:
    """Of a product with so many rows: as many loads on their way as registers and shared memory allow."""
    return {"num_warps": 8, "num_stages": 2} if x_rows > 32 else {"num_warps": 4, "num_stages": 3}


def _splits(programs: int, row_bytes: int, device: torch.device) -> int:
    """Into how many parts columns are split, so that a narrow matrix still fills the device twice: a power of two."""
    tiles = triton.cdiv(row_bytes, TILE_BYTES)
    useful = min(MOST_SPLITS, tiles // LEAST_TILES_OF_SPLIT, 2 * multiprocessors(device) // programs)
    return 1 << max(0, int(useful).bit_length() - 1)


def pointers(matrix: Quantized) -> list[Tensor]:
    """Codes, scales, minima, the steps of both, and the table; what there is not is not read."""
    optional = (matrix.minima, matrix.scale_steps, matrix.minimum_steps, matrix.table)
    return [matrix.codes, matrix.scales, *(matrix.codes if one is None else one for one in optional)]


def steps_of_row(matrix: Quantized) -> int:
    return 0 if matrix.scale_steps is None else matrix.scale_steps.shape[1]


def constants(matrix: Quantized) -> dict[str, Any]:
    form = matrix.form
    return {
        "CODES": "table" if matrix.table is not None else form.codes,
        "BITS": form.bits,
        "GROUP": form.group,
        "WIDTH": form.half or form.group or TILE_BYTES,  # bytes of a block
        "OFFSET": form.offset,
        "HAS_MINIMA": form.has_minima,
        "HAS_STEPS": form.has_steps,
        "TILE_BYTES": TILE_BYTES if matrix.table is None else TILE_BYTES // 2,  # shared memory has the places, too
    }


@triton.jit(do_not_specialize=["rows"])
def multiply(
    x, codes, scales, minima, scale_steps, minimum_steps, table, bias, out,
    rows, columns, inputs, row_bytes, groups, steps, out_stride,
    CODES: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, OFFSET: tl.constexpr,
    HAS_MINIMA: tl.constexpr, HAS_STEPS: tl.constexpr, SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr,
    X_ROWS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_BYTES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (tile, split): some columns of the product, summed over a part of the inputs; [splits, rows, columns]."""
    column = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    split = tl.program_id(1)
    x_row = tl.arange(0, X_ROWS)
    real = column < columns
    wide = column.to(tl.int64)
    tiles = tl.cdiv(tl.cdiv(row_bytes, TILE_BYTES), SPLITS)
    begin = split * tiles * TILE_BYTES
    total = tl.zeros((TILE_ROWS, X_ROWS), tl.float32)
    for at in range(begin, min(begin + tiles * TILE_BYTES, row_bytes), TILE_BYTES):
        code = load_codes(codes, wide, real, at, row_bytes, WIDTH, TILE_BYTES)
        for part in tl.static_range(8 // BITS):
            values = values_of(
                code, part, at, wide, real, scales, minima, scale_steps, minimum_steps, table, inputs, groups, steps,
                CODES, BITS, GROUP, WIDTH, OFFSET, HAS_MINIMA, HAS_STEPS, TILE_BYTES,
            )  # fmt: skip
            byte = at + tl.arange(0, TILE_BYTES)
            inp = (byte // WIDTH * (8 // BITS) + part) * WIDTH + byte % WIDTH
            inside = (inp < inputs)[:, None] & (x_row < rows)[None, :]
            x_tile = tl.load(x + inp[:, None] + x_row[None, :] * inputs, mask=inside, other=0.0)
            weight = tl.reshape(values, (TILE_ROWS, TILE_BYTES)).to(x_tile.dtype)
            total = tl.dot(weight, x_tile, total, input_precision=PRECISION)
    if GROUP == 0:
        total *= tl.load(scales + column, mask=real, other=0.0)[:, None]
    if HAS_BIAS:
        total += tl.load(bias + column, mask=real, other=0.0).to(tl.float32)[:, None]
    place = (split * rows + x_row).to(tl.int64) * out_stride
    inside = real[:, None] & (x_row < rows)[None, :]
    tl.store(out + place[None, :] + column[:, None], total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def unpack(
    codes, scales, minima, scale_steps, minimum_steps, table, out,
    rows, inputs, row_bytes, groups, steps,
    CODES: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, OFFSET: tl.constexpr,
    HAS_MINIMA: tl.constexpr, HAS_STEPS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_BYTES: tl.constexpr,
):  # fmt: skip
    """Program (tile, bytes): the values of some bytes of some rows."""
    row = (tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)).to(tl.int64)
    real = row < rows
    at = tl.program_id(1) * TILE_BYTES
    code = load_codes(codes, row, real, at, row_bytes, WIDTH, TILE_BYTES)
    block, byte = tl.arange(0, TILE_BYTES // WIDTH), tl.arange(0, WIDTH)
    for part in tl.static_range(8 // BITS):
        values = values_of(
            code, part, at, row, real, scales, minima, scale_steps, minimum_steps, table, inputs, groups, steps,
            CODES, BITS, GROUP, WIDTH, OFFSET, HAS_MINIMA, HAS_STEPS, TILE_BYTES,
        )  # fmt: skip
        if GROUP == 0:
            values *= tl.load(scales + row, mask=real, other=0.0)[:, None, None]
        inp = ((at // WIDTH + block) * (8 // BITS) + part)[:, None] * WIDTH + byte[None, :]
        place = row[:, None, None] * inputs + inp[None, :, :]
        inside = real[:, None, None] & (inp < inputs)[None, :, :]
        tl.store(out + place, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def load_codes(codes, row, real, at, row_bytes, WIDTH: tl.constexpr, TILE_BYTES: tl.constexpr):
    """Bytes from `at` on of some rows: [rows, blocks, bytes of a block]."""
    block, byte = tl.arange(0, TILE_BYTES // WIDTH), tl.arange(0, WIDTH)
    place = at + block[:, None] * WIDTH + byte[None, :]
    inside = real[:, None, None] & (place < row_bytes)[None, :, :]
    return tl.load(codes + row[:, None, None] * row_bytes + place[None, :, :], mask=inside, other=0)


@triton.jit
def values_of(
    code, part, at, row, real, scales, minima, scale_steps, minimum_steps, table, inputs, groups, steps,
    CODES: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, OFFSET: tl.constexpr,
    HAS_MINIMA: tl.constexpr, HAS_STEPS: tl.constexpr, TILE_BYTES: tl.constexpr,
):  # fmt: skip
    """The values, float32, of the codes in one part of each byte; without their scales, where those are of rows."""
    if BITS == 4:
        code = (code >> (4 * part)) & 15
    values = decode(code, table, CODES, OFFSET)
    if GROUP > 0:
        first = ((at // WIDTH + tl.arange(0, TILE_BYTES // WIDTH)) * (8 // BITS) + part) * WIDTH
        exists = real[:, None] & (first < inputs)[None, :]
        place = row[:, None] * groups + (first // GROUP)[None, :]
        step_place = row[:, None] * steps + (first // 256)[None, :]
        scale = tl.load(scales + place, mask=exists, other=0).to(tl.float32)
        if HAS_STEPS:
            scale *= tl.load(scale_steps + step_place, mask=exists, other=0.0).to(tl.float32)
        values *= scale[:, :, None]
        if HAS_MINIMA:
            minimum = tl.load(minima + place, mask=exists, other=0).to(tl.float32)
            if HAS_STEPS:
                minimum *= tl.load(minimum_steps + step_place, mask=exists, other=0.0).to(tl.float32)
            values += minimum[:, :, None]
    return values


@triton.jit
def decode(code, table, CODES: tl.constexpr, OFFSET: tl.constexpr):
    """What codes stand for, float32. Floats of 8 and 4 bits are float16's with a shorter exponent, so of other size."""
    if CODES == "table":
        values = tl.load(table + code.to(tl.int32))
    elif CODES == "e4m3":
        bits = code.to(tl.uint16)
        half = ((bits & 128) << 8) | ((bits & 127) << 7)
        values = half.to(tl.float16, bitcast=True).to(tl.float32) * 256
        values = tl.where((bits & 127) == 127, float("nan"), values)
    elif CODES == "e2m1":
        bits = code.to(tl.uint16)
        half = ((bits & 8) << 12) | ((bits & 7) << 9)
        values = half.to(tl.float16, bitcast=True).to(tl.float32) * 16384
    else:
        values = code.to(tl.float32) - OFFSET
    return values


@triton.jit(do_not_specialize=["rows"])
def add_splits(
    partial, bias, out, rows, columns, out_stride, SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr, TILE: tl.constexpr
):
    """Program (row, tile): the sum of what the splits have, in their order."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < columns
    total = tl.zeros((TILE,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(partial + (split * rows + row) * columns + column, mask=inside, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, total.to(out.dtype.element_ty), mask=inside)
