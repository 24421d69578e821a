"""Causal attention over the paged KV cache: decode steps, chunks of prompts, and prompts too short for PyTorch's.

A program attends from a Q-block, the query heads that share a KV head for a few tokens of one sequence, to a split of
that sequence's keys, with a running softmax (Dao et al. 2022; split keys as in flash-decoding). Where there are several
splits, a second kernel merges them. Grids depend on nothing that only the device knows, so CUDA graphs can hold them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.executor.torch.kernels.chip import multiprocessors
from octavo.executor.torch.ops import Ragged, Scoring

LOG2_E = tl.constexpr(1.4426950408889634)
MOST_SPLITS = 32
LEAST_KEYS_OF_SPLIT = 256


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    ragged: Ragged,
    scoring: Scoring,
    out: Tensor,
    splits: int | None = None,
) -> None:
    """See `ops.paged_attention`. `splits` is for tests; by default the device decides."""
    _, heads, head_dim = q.shape
    kv_heads, block_size, value_dim = v_pages.shape[1:]
    group, sequences, longest = heads // kv_heads, len(ragged.starts), ragged.max_count
    # 64 queries are the least that Hopper's matrix instructions take. More, or more keys at once, spill registers.
    is_wide = q.dtype == torch.float32 or head_dim > 128
    tokens = 1 if longest == 1 else max(1, (16 if q.dtype == torch.float32 else 64) // group)
    rows = max(16, triton.next_power_of_2(tokens * group))
    blocks = triton.cdiv(longest, tokens)
    if splits is None:
        splits = _splits(sequences * blocks * kv_heads, ragged.block_tables.shape[1] * block_size, q.device)
    partial, peaks, sums = _partials(sequences * longest * heads, splits, value_dim, out)
    of_heads = (scoring.slopes, scoring.biases, scoring.sinks)
    slopes, biases, sinks = (out if x is None else x for x in of_heads)  # not read where there are none
    bias_reach = 0 if scoring.biases is None else scoring.biases.shape[1] // 2
    kind_of_slopes = "none" if scoring.slopes is None else "root" if scoring.by_root else "distance"
    kernel: Any
    merge: Any
    kernel, merge = attend, merge_splits
    kernel[sequences, blocks, kv_heads * splits](
        q, k_pages, v_pages, out, partial, peaks, sums,
        ragged.block_tables, ragged.starts, ragged.counts, ragged.rows, slopes, biases, sinks,
        scoring.scale * LOG2_E.value, (scoring.softcap or 0.0) * LOG2_E.value, scoring.window or scoring.chunk or 0,
        bias_reach, longest, ragged.block_tables.stride(0), q.stride(0),
        KV_HEADS=kv_heads, GROUP=group, HEAD_DIM=head_dim, VALUE_DIM=value_dim, BLOCK_SIZE=block_size,
        TOKENS=tokens, SPLITS=splits, LOOKS="window" if scoring.window else "chunk" if scoring.chunk else "all",
        LOOKBACK=scoring.lookback, HAS_CAP=scoring.softcap is not None, SLOPES=kind_of_slopes,
        HAS_BIASES=scoring.biases is not None, HAS_SINKS=scoring.sinks is not None,
        ROWS=rows, TILE=32 if is_wide else 64,
        DIM_TILE=max(16, triton.next_power_of_2(head_dim)), VALUE_TILE=max(16, triton.next_power_of_2(value_dim)),
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=4, num_stages=2 if is_wide else 3,
    )  # fmt: skip
    if splits > 1:
        merge[sequences, longest, heads](
            partial, peaks, sums, out, ragged.counts, ragged.rows, sinks, longest,
            HEADS=heads, VALUE_DIM=value_dim, SPLITS=splits, HAS_SINKS=scoring.sinks is not None,
            SPLIT_TILE=triton.next_power_of_2(splits), VALUE_TILE=triton.next_power_of_2(value_dim), num_warps=2,
        )  # fmt: skip


def _splits(programs: int, keys: int, device: torch.device) -> int:
    """Into how many parts keys are split, so that a few sequences still fill the device twice.

    A power of two, since every number of splits is a kernel of its own.
    """
    useful = min(MOST_SPLITS, triton.cdiv(keys, LEAST_KEYS_OF_SPLIT), 2 * multiprocessors(device) // programs)
    return 1 << max(0, int(useful).bit_length() - 1)


def _partials(rows: int, splits: int, value_dim: int, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what splits leave to be merged; none is needed for one."""
    if splits == 1:
        return out, out, out
    shape = (rows, splits)
    partial = torch.empty((*shape, value_dim), dtype=torch.float32, device=out.device)
    peaks, sums = (torch.empty(shape, dtype=torch.float32, device=out.device) for _ in range(2))
    return partial, peaks, sums


@triton.jit
def keys_of_split(begin, end, split, SPLITS: tl.constexpr, TILE: tl.constexpr):
    """The part of the keys [begin, end) that a split takes: whole tiles."""
    size = tl.cdiv(tl.cdiv(end - begin, TILE), SPLITS) * TILE
    first = begin + split * size
    return first, tl.minimum(end, first + size)


@triton.jit
def first_key(position, reach, LOOKS: tl.constexpr, LOOKBACK: tl.constexpr):
    """The first key that a token at `position` sees: of its window or its chunks of `reach`, or of all."""
    if LOOKS == "window":
        return tl.maximum(position - reach + 1, 0)
    if LOOKS == "chunk":
        return tl.maximum(position // reach - LOOKBACK, 0) * reach
    return position * 0


@triton.jit
def scores_of(
    products, position, key, end, slopes, biases, head, cap, reach, bias_reach, LOOKS: tl.constexpr,
    LOOKBACK: tl.constexpr, HAS_CAP: tl.constexpr, SLOPES: tl.constexpr, HAS_BIASES: tl.constexpr,
):  # fmt: skip
    """Scaled products with what else is done to them, -inf for keys that a token does not see, or from `end` on."""
    scores = products
    if HAS_CAP:
        scores = cap - 2 * cap / (tl.exp2(scores * (2 * LOG2_E) / cap) + 1)
    if SLOPES != "none":
        distance = tl.maximum(position[:, None] - key[None, :], 0).to(tl.float32)
        if SLOPES == "root":
            distance = tl.sqrt(distance)
        scores -= (tl.load(slopes + head) * LOG2_E)[:, None] * distance
    if HAS_BIASES:
        ahead = tl.minimum(tl.maximum(key[None, :] - position[:, None], -bias_reach), bias_reach)
        scores += tl.load(biases + (head * (2 * bias_reach + 1) + bias_reach)[:, None] + ahead) * LOG2_E
    seen = (key < end)[None, :] & (key[None, :] <= position[:, None])
    if LOOKS != "all":
        seen &= key[None, :] >= first_key(position, reach, LOOKS, LOOKBACK)[:, None]
    return tl.where(seen, scores, float("-inf"))


@triton.jit(do_not_specialize=["reach", "bias_reach", "longest", "table_stride"])  # they change from step to step
def attend(
    q, k_pages, v_pages, out, partial, peaks, sums, block_tables, starts, counts, rows, slopes, biases, sinks,
    scale, cap, reach, bias_reach, longest, table_stride, q_stride, KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, TOKENS: tl.constexpr,
    SPLITS: tl.constexpr, LOOKS: tl.constexpr, LOOKBACK: tl.constexpr, HAS_CAP: tl.constexpr,
    SLOPES: tl.constexpr, HAS_BIASES: tl.constexpr, HAS_SINKS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    DIM_TILE: tl.constexpr, VALUE_TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (sequence, Q-block, split and KV head). Scores are in units of log 2, for exp2."""
    sequence = tl.program_id(0)
    first = tl.program_id(1) * TOKENS
    kv_head, split = tl.program_id(2) % KV_HEADS, tl.program_id(2) // KV_HEADS
    count = tl.load(counts + sequence)
    if first >= count:
        return
    start = tl.load(starts + sequence)
    row, column, value_column = tl.arange(0, ROWS), tl.arange(0, DIM_TILE), tl.arange(0, VALUE_TILE)
    token, head = first + row // GROUP, kv_head * GROUP + row % GROUP
    real = (row < TOKENS * GROUP) & (token < count)
    in_head, in_value = column < HEAD_DIM, value_column < VALUE_DIM
    step_row = (tl.load(rows + sequence) + token).to(tl.int64)
    query_at = step_row * q_stride + head * HEAD_DIM
    query = tl.load(q + query_at[:, None] + column[None, :], mask=real[:, None] & in_head[None, :], other=0.0)

    oldest = first_key(start + first, reach, LOOKS, LOOKBACK) // TILE * TILE
    begin, end = keys_of_split(oldest, start + tl.minimum(first + TOKENS, count), split, SPLITS, TILE)
    peak, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, VALUE_TILE], tl.float32)
    for tile in range(begin, end, TILE):
        key = tile + tl.arange(0, TILE)
        exists = key < end
        block = tl.load(block_tables + sequence * table_stride + key // BLOCK_SIZE, mask=exists, other=0).to(tl.int64)
        at = (block * KV_HEADS + kv_head) * BLOCK_SIZE + key % BLOCK_SIZE
        key_at, value_at = at[None, :] * HEAD_DIM + column[:, None], at[:, None] * VALUE_DIM + value_column[None, :]
        k = tl.load(k_pages + key_at, mask=exists[None, :] & in_head[:, None], other=0.0)
        products = tl.dot(query, k, input_precision=PRECISION) * scale
        scores = scores_of(products, start + token, key, end, slopes, biases, head, cap, reach, bias_reach, LOOKS,
                           LOOKBACK, HAS_CAP, SLOPES, HAS_BIASES)  # fmt: skip
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        finite = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # of a row that has seen nothing yet
        weight = tl.exp2(scores - finite[:, None])
        shrink = tl.exp2(peak - finite)
        v = tl.load(v_pages + value_at, mask=exists[:, None] & in_value[None, :], other=0.0)
        weighted = tl.dot(weight.to(v.dtype), v, weighted * shrink[:, None], input_precision=PRECISION)
        total = total * shrink + tl.sum(weight, 1)
        peak = new_peak

    inside = real[:, None] & in_value[None, :]
    if SPLITS == 1:
        if HAS_SINKS:  # one more term of the sum
            total += tl.exp2(tl.minimum(tl.load(sinks + head, mask=real, other=0.0) * LOG2_E - peak, 126.0))
        result = (weighted / tl.where(real, total, 1.0)[:, None]).to(out.dtype.element_ty)
        out_at = (step_row * (KV_HEADS * GROUP) + head) * VALUE_DIM
        tl.store(out + out_at[:, None] + value_column[None, :], result, mask=inside)
    else:
        place = ((sequence * longest + token).to(tl.int64) * (KV_HEADS * GROUP) + head) * SPLITS + split
        tl.store(partial + place[:, None] * VALUE_DIM + value_column[None, :], weighted, mask=inside)
        tl.store(peaks + place, peak, mask=real)
        tl.store(sums + place, total, mask=real)


@triton.jit(do_not_specialize=["longest"])
def merge_splits(
    partial, peaks, sums, out, counts, rows, sinks, longest,
    HEADS: tl.constexpr, VALUE_DIM: tl.constexpr, SPLITS: tl.constexpr, HAS_SINKS: tl.constexpr,
    SPLIT_TILE: tl.constexpr, VALUE_TILE: tl.constexpr,
):  # fmt: skip
    """Program (sequence, token, head): the splits' sums, each scaled to the largest score of all."""
    sequence, token, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if token >= tl.load(counts + sequence):
        return
    split, column = tl.arange(0, SPLIT_TILE), tl.arange(0, VALUE_TILE)
    place = ((sequence * longest + token).to(tl.int64) * HEADS + head) * SPLITS + split
    peak = tl.load(peaks + place, mask=split < SPLITS, other=float("-inf"))
    top = tl.max(peak, 0)
    if HAS_SINKS:
        sink = tl.load(sinks + head) * LOG2_E
        top = tl.maximum(top, sink)
    share = tl.exp2(peak - top)
    total = tl.sum(share * tl.load(sums + place, mask=split < SPLITS, other=0.0), 0)
    if HAS_SINKS:
        total += tl.exp2(sink - top)
    inside = (split < SPLITS)[:, None] & (column < VALUE_DIM)[None, :]
    weighted = tl.load(partial + place[:, None] * VALUE_DIM + column[None, :], mask=inside, other=0.0)
    result = tl.sum(weighted * share[:, None], 0) / total
    row = (tl.load(rows + sequence) + token).to(tl.int64)
    tl.store(out + (row * HEADS + head) * VALUE_DIM + column, result.to(out.dtype.element_ty), mask=column < VALUE_DIM)
