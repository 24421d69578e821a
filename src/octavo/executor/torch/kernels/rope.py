"""Rotation of queries and keys in place, and the KV cache's writes: two programs for each token."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from octavo.executor.torch.ops import Rotation


def rotate_and_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: Rotation | None,
    positions: Tensor,
    slots: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
) -> None:
    tokens, heads, head_dim = q.shape
    kv_heads, value_dim = v.shape[1:]
    pairs = 0 if rotation is None else rotation.cos.shape[1]
    cos, sin = (positions, positions) if rotation is None else (rotation.cos, rotation.sin)  # not read without pairs
    kernel: Any = rotate_token
    kernel[tokens, 2](
        q, k, v, cos, sin, positions, slots, k_pages, v_pages, q.stride(0), k.stride(0), v.stride(0),
        HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, VALUE_DIM=value_dim, PAIRS=pairs,
        BLOCK_SIZE=k_pages.shape[2], INTERLEAVED=rotation is not None and rotation.interleaved,
        HEAD_TILE=triton.next_power_of_2(heads), KV_HEAD_TILE=triton.next_power_of_2(kv_heads),
        DIM_TILE=triton.next_power_of_2(max(head_dim, value_dim)), PAIR_TILE=triton.next_power_of_2(max(1, pairs)),
    )  # fmt: skip


@triton.jit
def rotate_token(
    q, k, v, cos, sin, positions, slots, k_pages, v_pages, q_stride, k_stride, v_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    PAIRS: tl.constexpr, BLOCK_SIZE: tl.constexpr, INTERLEAVED: tl.constexpr,
    HEAD_TILE: tl.constexpr, KV_HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr, PAIR_TILE: tl.constexpr,
):  # fmt: skip
    """Program (token, 0) rotates the queries, program (token, 1) rotates the keys and stores keys and values."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot < 0:  # padding
        return
    position = tl.load(positions + token)
    if tl.program_id(1) == 0:
        if PAIRS > 0:
            row = q + token * q_stride
            rotate_heads(
                row, row, HEAD_DIM, cos, sin, position, HEADS, HEAD_DIM, PAIRS, INTERLEAVED, HEAD_TILE, PAIR_TILE
            )
    else:
        place = (slot // BLOCK_SIZE) * KV_HEADS * BLOCK_SIZE + slot % BLOCK_SIZE
        page, row = place * HEAD_DIM, k + token * k_stride
        values = v_pages + place * VALUE_DIM
        copy_heads(v + token * v_stride, values, 0, KV_HEADS, VALUE_DIM, BLOCK_SIZE, KV_HEAD_TILE, DIM_TILE)
        if 2 * PAIRS < HEAD_DIM:
            copy_heads(row, k_pages + page, 2 * PAIRS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, KV_HEAD_TILE, DIM_TILE)
        if PAIRS > 0:
            rotate_heads(
                row, k_pages + page, BLOCK_SIZE * HEAD_DIM, cos, sin, position,
                KV_HEADS, HEAD_DIM, PAIRS, INTERLEAVED, KV_HEAD_TILE, PAIR_TILE,
            )  # fmt: skip


@triton.jit
def copy_heads(
    row, page, first, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr,
):  # fmt: skip
    """Copies the columns from `first` on of all heads to a page."""
    head, column = tl.arange(0, HEAD_TILE)[:, None], tl.arange(0, DIM_TILE)[None, :]
    inside = (head < HEADS) & (column >= first) & (column < HEAD_DIM)
    values = tl.load(row + head * HEAD_DIM + column, mask=inside, other=0.0)
    tl.store(page + head * (BLOCK_SIZE * HEAD_DIM) + column, values.to(page.dtype.element_ty), mask=inside)


@triton.jit
def rotate_heads(
    row, other, other_stride, cos, sin, position, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr, HEAD_TILE: tl.constexpr, PAIR_TILE: tl.constexpr,
):  # fmt: skip
    """Rotates all heads of a row in place, and writes them to `other` too, whose heads are `other_stride` apart."""
    head, pair = tl.arange(0, HEAD_TILE)[:, None], tl.arange(0, PAIR_TILE)[None, :]
    inside = (head < HEADS) & (pair < PAIRS)
    if INTERLEAVED:
        first = 2 * pair
        second = first + 1
    else:
        first = pair
        second = pair + PAIRS
    c = tl.load(cos + position * PAIRS + pair, mask=pair < PAIRS, other=0.0)
    s = tl.load(sin + position * PAIRS + pair, mask=pair < PAIRS, other=0.0)
    a = tl.load(row + head * HEAD_DIM + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(row + head * HEAD_DIM + second, mask=inside, other=0.0).to(tl.float32)
    x, y = (a * c - b * s).to(row.dtype.element_ty), (b * c + a * s).to(row.dtype.element_ty)
    tl.store(row + head * HEAD_DIM + first, x, mask=inside)
    tl.store(row + head * HEAD_DIM + second, y, mask=inside)
    tl.store(other + head * other_stride + first, x.to(other.dtype.element_ty), mask=inside)
    tl.store(other + head * other_stride + second, y.to(other.dtype.element_ty), mask=inside)
