"""The torch executor's ops in plain PyTorch: they run on the CPU, and the Triton kernels must agree with them.

The keys of a layer are in pages [blocks, kv_heads, block_size, head_dim], its values likewise. A token's slot is
block * block_size + its place in the block; a negative one belongs to padding, which is neither stored nor attended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.executor.torch.quantized import Matrix, Quantized
from octavo.sampling_params import GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class Rotation:
    """cos and sin of every position and pair, times the table's scale: float32 [positions, pairs]."""

    cos: Tensor
    sin: Tensor
    interleaved: bool


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences whose newest tokens are a step's rows: int32, on the device.

    Sequence i has `starts[i]` tokens in the cache from earlier steps; its `counts[i]` new ones, 0 for padding, are in
    the step's rows from `rows[i]` on; `block_tables[i]` has the blocks of all of them, at least.
    """

    block_tables: Tensor  # [sequences, width]
    starts: Tensor  # [sequences]
    counts: Tensor
    rows: Tensor
    max_count: int  # the largest of `counts`


@dataclass(frozen=True, slots=True)
class Scoring:
    """How products of queries and keys become weights of values: see `octavo.graph.ops.attention.Attention`."""

    scale: float
    window: int | None = None
    chunk: int | None = None
    lookback: int = 0
    softcap: float | None = None
    slopes: Tensor | None = None  # float32 [heads]
    by_root: bool = False
    biases: Tensor | None = None  # float32 [heads, distances], of keys from as far behind a query to as far before it
    sinks: Tensor | None = None  # float32 [heads]
    causal: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether a softmax of the scores is all there is, over whatever keys are seen."""
        return all(one is None for one in (self.softcap, self.slopes, self.biases, self.sinks))

    def back(self, count: int, total: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """For the last `count` of `total` tokens: how far each key is behind, and whether it is seen."""
        position = torch.arange(total - count, total, device=device)[:, None]
        back = position - torch.arange(total, device=device)
        limit = position % self.chunk + self.lookback * self.chunk + 1 if self.chunk else self.window or total
        return back, ((back >= 0) & (back < limit) if self.causal else back.abs() < limit)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a token and one of its experts, those of a token one after the other: int64, on the device.

    Those of expert e are `order[starts[e] : starts[e + 1]]`.
    """

    order: Tensor  # [pairs]
    starts: Tensor  # [experts + 1]


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, computed in float32; `weight` is float32 [columns]."""
    x = x.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight).to(dtype)


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + y in float32, and its norm in `dtype`."""
    total = x.float() + y.float()
    return total, rms_norm(total, weight, eps, dtype)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "sigmoid": torch.sigmoid,
}  # those of octavo.graph.ops.pointwise


def gated(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """What `octavo.graph.ops.pointwise` calls a GLU, in float32, contiguous; the inputs may be parts of wider rows."""
    gate, up, dtype = gate.float(), up.float(), gate.dtype
    if kind == "none":
        return (gate * up).to(dtype)
    if kind == "swigluoai":
        return (ACTIVATIONS["quick_gelu"](gate.clamp(max=7)) * (up.clamp(-7, 7) + 1)).to(dtype)
    return (ACTIVATIONS[kind](gate) * up).to(dtype)


def delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, rows: Tensor, positions: Tensor
) -> Tensor:
    """One token of each sequence under the gated delta rule: what it reads of its state, which it changes in place.

    q and k are [sequences, heads, key_dim], v and the result [sequences, heads, value_dim], g and beta [sequences,
    heads], all float32 and contiguous; `rows` are those of `state` [rows, heads, key_dim, value_dim] that are the
    sequences'. At position 0 a state begins with zeros.
    """
    now = torch.where((positions > 0)[:, None, None, None], state[rows], 0.0) * g.exp()[:, :, None, None]
    change = beta[:, :, None] * (v - torch.einsum("shkv,shk->shv", now, k))
    now = now + k[..., None] * change[:, :, None]
    state[rows] = now
    return torch.einsum("shkv,shk->shv", now, q)


def dequantize(matrix: Quantized, out: Tensor) -> None:
    """Writes the matrix's values to `out` [rows, columns], each rounded once to its type."""
    form, codes = matrix.form, matrix.codes
    if form.bits == 4:
        codes = _grouped(codes, codes.shape[1] // form.half)
        codes = torch.stack([codes & 15, codes >> 4], dim=2).flatten(1)
    values = _values_of_codes(codes, matrix)
    scales, minima = matrix.scales.float(), None if matrix.minima is None else matrix.minima.float()
    if matrix.scale_steps is not None:
        scales = _times_steps(scales, matrix.scale_steps)
    if minima is not None and matrix.minimum_steps is not None:
        minima = _times_steps(minima, matrix.minimum_steps)
    groups = _grouped(values, scales.shape[1]) * scales[:, :, None]
    if minima is not None:
        groups += minima[:, :, None]
    out.copy_(groups.flatten(1)[:, : matrix.columns])


def _values_of_codes(codes: Tensor, matrix: Quantized) -> Tensor:
    match matrix.form.codes:
        case "e4m3":
            return codes.view(torch.float8_e4m3fn).float()
        case "e2m1":
            half = ((codes & 8).short() << 12) | ((codes & 7).short() << 9)  # the same number as a float16, / 2^14
            return half.view(torch.float16).float() * 2**14
        case _ if matrix.table is not None:
            return matrix.table[codes.long()]
    return codes.float() - matrix.form.offset


def _times_steps(numbers: Tensor, steps: Tensor) -> Tensor:
    return (_grouped(numbers, steps.shape[1]) * steps.float()[:, :, None]).flatten(1)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[rows, columns] as [rows, groups, columns of a group]."""
    return x.reshape(len(x), groups, -1)


def multiply_quantized(x: Tensor, matrix: Quantized, bias: Tensor | None, out: Tensor) -> None:
    """Writes x · matrixᵀ + bias to `out`, which may be a part of wider rows; x is contiguous, and has few rows.

    Weights are rounded to the type of x before they are multiplied, sums are of float32.
    """
    values = torch.empty(len(matrix), matrix.columns, dtype=x.dtype, device=x.device)
    dequantize(matrix, values)
    product = x.float() @ values.float().t()
    out.copy_(product if bias is None else product + bias.float())


def multiply_experts(
    x: Tensor, matrix: Matrix, bias: Tensor | None, pairs: Pairs, factors: Tensor | None, out: Tensor
) -> None:
    """Writes what each pair's expert makes of the pair's row of x: factor * (matrix · row + bias).

    `out` is [pairs, columns], x has a row for each pair or for each token. `matrix` has those of all experts one below
    the other, `bias`, float32, likewise. `factors` is float32 [pairs].
    """
    columns, each = out.shape[1], len(out) // len(x)
    for expert, (begin, end) in enumerate(pairwise(pairs.starts.tolist())):
        if begin == end:
            continue
        mine, rows = pairs.order[begin:end], slice(expert * columns, (expert + 1) * columns)
        if isinstance(matrix, Quantized):
            values = torch.empty(columns, matrix.columns, dtype=x.dtype, device=x.device)
            dequantize(matrix.rows(rows), values)
        else:
            values = matrix[rows]
        product = x[mine // each].float() @ values.float().t()
        if bias is not None:
            product += bias[rows]
        if factors is not None:
            product *= factors[mine, None]
        out[mine] = product.to(out.dtype)


def rotate(x: Tensor, rotation: Rotation, positions: Tensor) -> None:
    """Rotates the heads of x [tokens, heads, head_dim] in place."""
    cos, sin = (table[positions][:, None, :] for table in (rotation.cos, rotation.sin))
    pairs = cos.shape[-1]
    if rotation.interleaved:
        a, b = x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
    else:
        a, b = x[..., :pairs], x[..., pairs : 2 * pairs]
    rotated = a.float() * cos - b.float() * sin, b.float() * cos + a.float() * sin
    a.copy_(rotated[0])
    b.copy_(rotated[1])


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
    """Rotates q [tokens, heads, head_dim] and k [tokens, kv_heads, head_dim] in place; writes k and v to their slots.

    q, k and v may be parts of wider rows. `positions` and `slots` are int64 [tokens].
    """
    if rotation is not None:
        rotate(q, rotation, positions)
        rotate(k, rotation, positions)
    real = slots >= 0
    store(k[real], v[real], slots[real], k_pages, v_pages)


def store(k: Tensor, v: Tensor, slots: Tensor, k_pages: Tensor, v_pages: Tensor) -> None:
    """Writes k and v [tokens, kv_heads, head_dim] to their slots, int64 [tokens]."""
    block_size = k_pages.shape[2]
    blocks, places = slots // block_size, slots % block_size
    k_pages[blocks, :, places] = k
    v_pages[blocks, :, places] = v


def paged_attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, ragged: Ragged, scoring: Scoring, out: Tensor) -> None:
    """Causal attention of every new token over its sequence's tokens so far; writes their rows of `out`.

    q is [tokens, heads, head_dim], `out` [tokens, heads, value_dim].
    """
    tables = ragged.block_tables.tolist()
    sizes = zip(ragged.starts.tolist(), ragged.counts.tolist(), ragged.rows.tolist(), strict=True)
    for table, (start, count, row) in zip(tables, sizes, strict=True):
        total = start + count
        blocks = table[: -(-total // k_pages.shape[2])]
        k, v = (pages[blocks].transpose(0, 1).flatten(1, 2)[:, :total] for pages in (k_pages, v_pages))
        queries = q[row : row + count].transpose(0, 1)
        back, seen = scoring.back(count, total, q.device)
        if scoring.is_plain:
            mask, scale = seen, scoring.scale
            found = F.scaled_dot_product_attention(queries, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
        else:
            found = attend(queries, k, v, scoring, back, seen)
        out[row : row + count] = found.transpose(0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, back: Tensor, seen: Tensor) -> Tensor:
    """Attention with whatever there may be, computed in float32: [heads, tokens, value_dim], as q is; k and v likewise.

    `back` is how far each key is behind each query, `seen` whether they meet.
    """
    k, v = (x.float().repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
    scores = scoring.scale * (q.float() @ k.transpose(1, 2))
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    if scoring.slopes is not None:
        distances = back.abs().sqrt() if scoring.by_root else back.abs()
        scores = scores - scoring.slopes[:, None, None] * distances
    if scoring.biases is not None:
        reach = scoring.biases.shape[1] // 2
        scores = scores + scoring.biases[:, (-back).clamp(-reach, reach) + reach]
    scores = scores.masked_fill(~seen, -torch.inf)
    if scoring.sinks is not None:
        scores = torch.cat([scores, scoring.sinks[:, None, None].expand(-1, scores.shape[1], 1)], dim=2)
    return (scores.softmax(2)[:, :, : k.shape[1]] @ v).to(q.dtype)


def draw(logits: Tensor, numbers: Tensor, top_k: Tensor) -> Tensor:
    """A token for each row of `logits`, float32 [draws, vocabulary]: int64 [draws]; any where none is possible.

    `numbers` has temperature, top_p, min_p and a random number in (0, 1] of each: float64 [4, draws]. Temperatures
    below GREEDY_BELOW take the likeliest token. `top_k` is int32 [draws]; 0 keeps all.
    """
    parameters = zip(*numbers.tolist(), top_k.tolist(), strict=True)
    return torch.tensor([_draw(row.double(), *one) for row, one in zip(logits, parameters, strict=True)])


def _draw(row: Tensor, temperature: float, top_p: float, min_p: float, uniform: float, top_k: int) -> int:
    if temperature < GREEDY_BELOW or not row.max().isfinite():
        return int(row.argmax())
    below_peak = row - row.max()
    weights = torch.exp(below_peak / temperature)
    ids = torch.arange(len(row))
    if 0 < top_k < len(row) or top_p < 1 or min_p > 0:
        ids = row.argsort(descending=True, stable=True)
        ids = ids[row[ids] > -torch.inf]
        if min_p > 0:
            ids = ids[below_peak[ids] >= temperature * math.log(min_p)]
        if 0 < top_k < len(row):
            ids = ids[:top_k]
        if top_p < 1:
            cumulative = weights[ids].cumsum(0)
            ids = ids[: 1 + int(torch.searchsorted(cumulative, top_p * cumulative[-1]))]
    cumulative = weights[ids].cumsum(0)
    return int(ids[torch.searchsorted(cumulative, uniform * cumulative[-1])])


def penalise(logits: Tensor, history: Tensor, places: Tensor, penalties: Tensor) -> None:
    """Applies penalties to logits [rows, vocabulary] in place.

    `places` has each sequence's row of `history`, its prompt's length and its whole length, int64 [3, rows];
    `penalties` repetition, frequency and presence, float32 [3, rows].
    """
    table_rows, num_prompt, num_tokens = places[:, :, None]
    tokens = history[table_rows[:, 0]].long()
    position = torch.arange(tokens.shape[1], device=tokens.device)
    exists = position < num_tokens
    seen, count = torch.zeros_like(logits), torch.zeros_like(logits)
    seen.scatter_add_(1, tokens, exists.float())
    count.scatter_add_(1, tokens, (exists & (position >= num_prompt)).float())
    repetition, frequency, presence = penalties[:, :, None]
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits.copy_(torch.where(seen > 0, repeated, logits))
    logits -= frequency * count
    logits -= presence * (count > 0)
