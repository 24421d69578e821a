"""Draws on the device: one program for each, which walks over its row of logits a few dozen times, in its SM's reach.

A token's mass is exp((logit - largest) / temperature) in units of 2^-40, an integer: sums are exact, whatever their
order. Sorting is not needed. Where mass or count, by falling logit, reaches a target is found by searching the ordered
bits of logits, four ways at a time; of equal logits, lower ids come first.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST_TILE = 4096
LOG2_E = tl.constexpr(1.4426950408889634)
UNIT = tl.constexpr(2.0**40)
LEAST_KEY = tl.constexpr(-(2**31))


def draw(logits: Tensor, numbers: Tensor, top_k: Tensor) -> Tensor:
    draws, vocab = logits.shape
    tokens = torch.empty(draws, dtype=torch.int64, device=logits.device)
    tile = min(WIDEST_TILE, triton.next_power_of_2(vocab))
    warps = max(1, tile // 256)
    kernel: Any = draw_token
    kernel[draws,](logits, numbers, top_k, tokens, logits.stride(0), vocab, draws, TILE=tile, num_warps=warps)
    return tokens


def penalise(logits: Tensor, history: Tensor, places: Tensor, penalties: Tensor) -> None:
    rows, vocab = logits.shape
    counts = torch.zeros((rows, vocab), dtype=torch.int32, device=logits.device)
    counter: Any = count_tokens
    counter[rows, triton.cdiv(history.shape[1], 1024)](
        history, places, counts, history.stride(0), vocab, rows, TILE=1024
    )
    kernel: Any = apply_penalties
    kernel[rows, triton.cdiv(vocab, 1024)](logits, counts, penalties, logits.stride(0), vocab, rows, TILE=1024)


@triton.jit(do_not_specialize=["draws"])
def draw_token(
    logits, numbers, top_k, tokens, stride, vocab, draws, TILE: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    row = logits + i * stride
    temperature, top_p = tl.load(numbers + i), tl.load(numbers + draws + i)
    min_p, uniform = tl.load(numbers + 2 * draws + i), tl.load(numbers + 3 * draws + i)
    k = tl.load(top_k + i)
    peak = largest(row, vocab, TILE)
    if (peak == float("inf")) | (peak == float("-inf")):  # nothing can be drawn
        tl.store(tokens + i, 0)
        return
    if temperature < 1e-5:
        token = nth_of_key(row, vocab, key_of(peak), 1, TILE)
    else:
        sharpness = (1 / temperature * LOG2_E).to(tl.float32)
        has_top_k = (k > 0) & (k < vocab)
        if has_top_k | (top_p < 1) | (min_p > 0):
            floor = float("-inf")
            if min_p > 0:
                floor = (temperature * tl.log(min_p)).to(tl.float32)
            token = draw_falling(row, vocab, peak, sharpness, floor, k, has_top_k, top_p, uniform, TILE)
        else:
            token = draw_in_order(row, vocab, peak, sharpness, uniform, TILE)
    tl.store(tokens + i, token)


@triton.jit
def draw_falling(row, vocab, peak, sharpness, floor, k, has_top_k, top_p, uniform, TILE: tl.constexpr):
    """Kept is what comes before `cut`, and of the logits with that key the first ones."""
    highest = key_of(peak)
    cut = tl.full([], LEAST_KEY, tl.int64)
    kept, count = mass_from(row, vocab, peak, sharpness, floor, cut, TILE)
    if has_top_k & (k < count):
        cut, above = reaching(row, vocab, peak, sharpness, floor, cut, highest, k.to(tl.int64), True, TILE)
        heavier, _number = mass_from(row, vocab, peak, sharpness, floor, cut + 1, TILE)
        kept = heavier + (k - above) * mass_of_key(cut, peak, sharpness)
    if top_p < 1:
        target = part_of(top_p, kept)
        cut, above = reaching(row, vocab, peak, sharpness, floor, cut, highest, target, False, TILE)
        each = mass_of_key(cut, peak, sharpness)
        kept = above + tl.cdiv(target - above, each) * each
    target = part_of(uniform, kept)
    key, above = reaching(row, vocab, peak, sharpness, floor, cut, highest, target, False, TILE)
    return nth_of_key(row, vocab, key, tl.cdiv(target - above, mass_of_key(key, peak, sharpness)), TILE)


@triton.jit
def draw_in_order(row, vocab, peak, sharpness, uniform, TILE: tl.constexpr):
    """The first token, by id, at which the mass reaches its target."""
    lowest = tl.full([], LEAST_KEY, tl.int64)
    total, _number = mass_from(row, vocab, peak, sharpness, float("-inf"), lowest, TILE)
    target = part_of(uniform, total)
    before = tl.zeros([], tl.int64)
    token = tl.full([], -1, tl.int64)
    for tile in range(0, vocab, TILE):
        ids, values, _ = load(row, tile, vocab, TILE)
        mass = mass_of(values, peak, sharpness, float("-inf"))
        after = before + tl.sum(mass, 0)
        if (token < 0) & (after >= target):
            token = tl.min(tl.where(before + tl.cumsum(mass, 0) >= target, ids, vocab), 0).to(tl.int64)
        before = after
    return token


@triton.jit
def reaching(
    row, vocab, peak, sharpness, floor, low, high, target, IS_COUNT: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """The largest key from which on there is `target` of mass (or of tokens), and how much is above it.

    It is known to be within [low, high].
    """
    above = tl.zeros([], tl.int64)
    while low < high:
        step = (high - low + 3) // 4
        first, second, third = low + step, low + 2 * step, low + 3 * step
        a, b, c = tl.zeros([], tl.int64), tl.zeros([], tl.int64), tl.zeros([], tl.int64)
        for tile in range(0, vocab, TILE):
            _, values, keys = load(row, tile, vocab, TILE)
            amount = mass_of(values, peak, sharpness, floor)
            if IS_COUNT:
                amount = is_eligible(values, peak, floor).to(tl.int64)
            a += tl.sum(tl.where(keys >= first, amount, 0), 0)
            b += tl.sum(tl.where(keys >= second, amount, 0), 0)
            c += tl.sum(tl.where(keys >= third, amount, 0), 0)
        above = tl.where(c >= target, above, tl.where(b >= target, c, tl.where(a >= target, b, a)))
        end = tl.where(b >= target, third - 1, tl.where(a >= target, second - 1, first - 1))
        high = tl.where(c >= target, high, tl.minimum(high, end))
        low = tl.where(c >= target, third, tl.where(b >= target, second, tl.where(a >= target, first, low)))
    return low, above


@triton.jit
def mass_from(row, vocab, peak, sharpness, floor, key, TILE: tl.constexpr):
    """Mass, and number, of the tokens from a key on."""
    total, count = tl.zeros([], tl.int64), tl.zeros([], tl.int64)
    for tile in range(0, vocab, TILE):
        _, values, keys = load(row, tile, vocab, TILE)
        total += tl.sum(tl.where(keys >= key, mass_of(values, peak, sharpness, floor), 0), 0)
        count += tl.sum((is_eligible(values, peak, floor) & (keys >= key)).to(tl.int64), 0)
    return total, count


@triton.jit
def nth_of_key(row, vocab, key, n, TILE: tl.constexpr):
    """The id of the n-th token, from 1 on, whose logit has this key."""
    before = tl.zeros([], tl.int64)
    token = tl.full([], -1, tl.int64)
    for tile in range(0, vocab, TILE):
        ids, _, keys = load(row, tile, vocab, TILE)
        same = (keys == key).to(tl.int64)
        after = before + tl.sum(same, 0)
        if (token < 0) & (after >= n):
            token = tl.min(tl.where(before + tl.cumsum(same, 0) >= n, ids, vocab), 0).to(tl.int64)
        before = after
    return token


@triton.jit
def largest(row, vocab, TILE: tl.constexpr):
    peak = tl.full([], float("-inf"), tl.float32)
    for tile in range(0, vocab, TILE):
        _, values, _ = load(row, tile, vocab, TILE)
        peak = tl.maximum(peak, tl.max(values, 0))
    return peak


@triton.jit
def load(row, tile, vocab, TILE: tl.constexpr):
    """Ids, logits and keys from `tile` on; past the end, logits are -inf."""
    ids = tile + tl.arange(0, TILE)
    values = tl.load(row + ids, mask=ids < vocab, other=float("-inf")) + 0.0  # no -0.0
    return ids, values, key_of(values)


@triton.jit
def key_of(value):
    """An integer, int64, that orders as the float32 does."""
    bits = value.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def mass_of_key(key, peak, sharpness):
    bits = key.to(tl.int32)
    value = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.maximum(mass_of(value, peak, sharpness, float("-inf")), 1)


@triton.jit
def mass_of(value, peak, sharpness, floor):
    share = tl.where(is_eligible(value, peak, floor), tl.exp2((value - peak) * sharpness), 0.0)  # never NaN
    return (share * UNIT + 0.5).to(tl.int64)


@triton.jit
def is_eligible(value, peak, floor):
    return (value > float("-inf")) & (value - peak >= floor)


@triton.jit
def part_of(share, mass):
    """ceil(share * mass), at least 1."""
    return tl.maximum(tl.ceil(share * mass.to(tl.float64)).to(tl.int64), 1)


@triton.jit(do_not_specialize=["rows"])
def count_tokens(history, places, counts, stride, vocab, rows, TILE: tl.constexpr):
    """Counts a sequence's output tokens, and marks its prompt's with bit 30."""
    i = tl.program_id(0).to(tl.int64)
    table_row, num_prompt = tl.load(places + i), tl.load(places + rows + i)
    position = tl.program_id(1) * TILE + tl.arange(0, TILE)
    exists = position < tl.load(places + 2 * rows + i)
    token = tl.load(history + table_row * stride + position, mask=exists, other=0)
    is_output = position >= num_prompt
    tl.atomic_add(counts + i * vocab + token, 1, mask=exists & is_output)
    tl.atomic_or(counts + i * vocab + token, 1 << 30, mask=exists & (position < num_prompt))


@triton.jit(do_not_specialize=["rows"])
def apply_penalties(logits, counts, penalties, stride, vocab, rows, TILE: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = ids < vocab
    repetition, frequency = tl.load(penalties + i), tl.load(penalties + rows + i)
    presence = tl.load(penalties + 2 * rows + i)
    count = tl.load(counts + i * vocab + ids, mask=inside, other=0)
    value = tl.load(logits + i * stride + ids, mask=inside, other=0.0)
    repeated = tl.where(value > 0, value / repetition, value * repetition)
    value = tl.where(count > 0, repeated, value)
    output = (count & ((1 << 30) - 1)).to(tl.float32)
    value -= frequency * output
    value = tl.where(output > 0, value - presence, value)
    tl.store(logits + i * stride + ids, value, mask=inside)
