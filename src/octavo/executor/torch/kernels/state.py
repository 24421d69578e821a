"""The gated delta rule for one token of each sequence: states are read and written once, where they lie."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUE_TILE = 32  # columns of a state that a program has


def delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, rows: Tensor, positions: Tensor
) -> Tensor:
    """See `ops.delta_step`."""
    sequences, heads, value_dim = v.shape
    key_dim, out = q.shape[2], torch.empty_like(v)
    kernel: Any = step_of_head
    kernel[sequences, heads, triton.cdiv(value_dim, VALUE_TILE)](
        q, k, v, g, beta, state, rows, positions, out,
        HEADS=heads, KEY_DIM=key_dim, VALUE_DIM=value_dim, KEY_TILE=triton.next_power_of_2(key_dim),
        VALUE_TILE=VALUE_TILE,
    )  # fmt: skip
    return out


@triton.jit
def step_of_head(
    q, k, v, g, beta, state, rows, positions, out,
    HEADS: tl.constexpr, KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, KEY_TILE: tl.constexpr,
    VALUE_TILE: tl.constexpr,
):  # fmt: skip
    """Program (sequence, head, some columns of the values)."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    place = sequence * HEADS + head
    i, column = tl.arange(0, KEY_TILE), tl.program_id(2) * VALUE_TILE + tl.arange(0, VALUE_TILE)
    in_key, in_value = i < KEY_DIM, column < VALUE_DIM
    first = state + (tl.load(rows + sequence) * HEADS + head) * (KEY_DIM * VALUE_DIM)
    at = first + i[:, None] * VALUE_DIM + column[None, :]
    inside = in_key[:, None] & in_value[None, :]
    before = tl.load(at, mask=inside, other=0.0) * tl.exp(tl.load(g + place))
    now = tl.where(tl.load(positions + sequence) > 0, before, 0.0)
    key = tl.load(k + place * KEY_DIM + i, mask=in_key, other=0.0)
    query = tl.load(q + place * KEY_DIM + i, mask=in_key, other=0.0)
    value = tl.load(v + place * VALUE_DIM + column, mask=in_value, other=0.0)
    change = tl.load(beta + place) * (value - tl.sum(now * key[:, None], 0))
    now += key[:, None] * change[None, :]
    tl.store(at, now, mask=inside)
    tl.store(out + place * VALUE_DIM + column, tl.sum(now * query[:, None], 0), mask=in_value)
