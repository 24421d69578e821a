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
    kv_heads = k.shape[1]
    pairs = 0 if rotation is None else rotation.cos.shape[1]
    cos, sin = (positions, positions) if rotation is None else (rotation.cos, rotation.sin)  # not read without pairs
    kernel: Any = rotate_token
    kernel[tokens, 2](
        q, k, v, cos, sin, positions, slots, k_pages, v_pages, q.stride(0), k.stride(0), v.stride(0),
        HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, PAIRS=pairs, BLOCK_SIZE=k_pages.shape[2],
        INTERLEAVED=rotation is not None and rotation.interleaved,
        HEAD_TILE=triton.next_power_of_2(heads), KV_HEAD_TILE=triton.next_power_of_2(kv_heads),
        DIM_TILE=triton.next_power_of_2(head_dim), PAIR_TILE=triton.next_power_of_2(max(1, pairs)),
    )  # fmt: skip


@triton.jit
def rotate_token(
    q, k, v, cos, sin, positions, slots, k_pages, v_pages, q_stride, k_stride, v_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAIRS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, INTERLEAVED: tl.constexpr,
    HEAD_TILE: tl.constexpr, KV_HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr, PAIR_TILE: tl.constexpr,
):  # fmt: skip
    """Program (token, 0) rotates the queries, program (token, 1) rotates the keys and stores keys and values."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot < 0:  # padding
        return
    if tl.program_id(1) == 0:
        if PAIRS > 0:
            position = tl.load(positions + token)
            rotated = rotate_heads(
                q + token * q_stride, cos, sin, position, HEADS, HEAD_DIM, PAIRS, INTERLEAVED, HEAD_TILE, PAIR_TILE
            )
            first, second, a, b, inside = rotated
            tl.store(q + token * q_stride + first, a.to(q.dtype.element_ty), mask=inside)
            tl.store(q + token * q_stride + second, b.to(q.dtype.element_ty), mask=inside)
    else:
        page = (slot // BLOCK_SIZE) * KV_HEADS * BLOCK_SIZE * HEAD_DIM + (slot % BLOCK_SIZE) * HEAD_DIM
        head, column = tl.arange(0, KV_HEAD_TILE)[:, None], tl.arange(0, DIM_TILE)[None, :]
        inside = (head < KV_HEADS) & (column < HEAD_DIM)
        value = tl.load(v + token * v_stride + head * HEAD_DIM + column, mask=inside, other=0.0)
        paged = page + head * (BLOCK_SIZE * HEAD_DIM) + column
        tl.store(v_pages + paged, value.to(v_pages.dtype.element_ty), mask=inside)
        if 2 * PAIRS < HEAD_DIM:  # the columns that are not rotated
            rest = inside & (column >= 2 * PAIRS)
            key = tl.load(k + token * k_stride + head * HEAD_DIM + column, mask=rest, other=0.0)
            tl.store(k_pages + paged, key.to(k_pages.dtype.element_ty), mask=rest)
        if PAIRS > 0:
            position = tl.load(positions + token)
            rotated = rotate_heads(
                k + token * k_stride,
                cos,
                sin,
                position,
                KV_HEADS,
                HEAD_DIM,
                PAIRS,
                INTERLEAVED,
                KV_HEAD_TILE,
                PAIR_TILE,
            )
            first, second, a, b, inside = rotated
            tl.store(k + token * k_stride + first, a.to(k.dtype.element_ty), mask=inside)
            tl.store(k + token * k_stride + second, b.to(k.dtype.element_ty), mask=inside)
            spread = page + head * ((BLOCK_SIZE - 1) * HEAD_DIM)  # heads are further apart in a page than in a row
            tl.store(k_pages + spread + first, a.to(k_pages.dtype.element_ty), mask=inside)
            tl.store(k_pages + spread + second, b.to(k_pages.dtype.element_ty), mask=inside)


@triton.jit
def rotate_heads(
    row, cos, sin, position, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr, HEAD_TILE: tl.constexpr, PAIR_TILE: tl.constexpr,
):  # fmt: skip
    """Where the pairs of a row's heads are, [HEAD_TILE, PAIR_TILE], their rotated values, and which of them exist."""
    head, pair = tl.arange(0, HEAD_TILE)[:, None], tl.arange(0, PAIR_TILE)[None, :]
    inside = (head < HEADS) & (pair < PAIRS)
    if INTERLEAVED:
        first = head * HEAD_DIM + 2 * pair
        second = first + 1
    else:
        first = head * HEAD_DIM + pair
        second = first + PAIRS
    c = tl.load(cos + position * PAIRS + pair, mask=pair < PAIRS, other=0.0)
    s = tl.load(sin + position * PAIRS + pair, mask=pair < PAIRS, other=0.0)
    a = tl.load(row + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(row + second, mask=inside, other=0.0).to(tl.float32)
    return first, second, a * c - b * s, b * c + a * s, inside
