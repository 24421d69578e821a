"""Draws tokens on the device, by the rules that the tests' reference sampler has, too, and waits for nothing.

Whatever depends on a sequence's tokens is computed from the token table, whose newest token the host may not know yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.executor.base import ALL_BANNED, UNUSABLE_LOGITS, Ids, Logits
from octavo.executor.torch.step import to_device
from octavo.sampling.masks import Bits
from octavo.sampling.options import SamplerOptions, uniforms
from octavo.sampling.rules import known_rules
from octavo.sampling.rules.base import Batch, Rule
from octavo.sampling_params import GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class DrawRow:
    """A draw from row `row` of the logits, for the sequence in row `table_row` of the token table, with its seed."""

    options: SamplerOptions
    seed: int
    row: int
    table_row: int
    num_prompt: int
    num_tokens: int  # of prompt and output so far
    mask: int = -1  # its row of the masks, if there is one

    @property
    def num_output(self) -> int:
        return self.num_tokens - self.num_prompt


class Drawn:
    """Tokens drawn, on the device and on their way to the host: see `octavo.executor.base.Sampled`."""

    def __init__(self, tokens: Tensor, report: _Report | None):
        self.device_tokens = tokens  # int64 [draws], below 0 where none was possible
        self._tokens = _Fetch(tokens)
        self._report = report

    @cached_property
    def tokens(self) -> Ids:
        (tokens,) = self._tokens.arrays()
        return tokens.astype(np.int32)

    @cached_property
    def logprobs(self) -> Logits:
        logprobs: Logits = self._spread(np.nan, np.float32, 0)
        return logprobs

    @cached_property
    def ranks(self) -> Ids:
        ranks: Ids = self._spread(0, np.int32, 1)
        return ranks

    def top(self, i: int) -> tuple[Ids, Logits]:
        assert self._report is not None
        place = self._report.place_of[i]
        _, _, ids, logprobs = self._report.fetch.arrays()
        count = self._report.counts[place] if self.tokens[i] >= 0 else 0
        possible = logprobs[place, :count] > -np.inf
        return ids[place, :count][possible].astype(np.int32), logprobs[place, :count][possible]

    def _spread(self, missing: float, dtype: Any, which: int) -> Any:
        """One of the reported columns for all draws, `missing` where there is nothing to report."""
        spread = np.full(len(self.tokens), missing, dtype)
        if self._report is not None:
            spread[list(self._report.place_of)] = self._report.fetch.arrays()[which]
        spread[self.tokens < 0] = missing
        return spread


class _Fetch:
    """Tensors on their way to the host."""

    def __init__(self, *tensors: Tensor):
        self._host = tensors
        self._done: Any = None
        if tensors[0].is_cuda:
            self._host = tuple(torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors)
            for host, tensor in zip(self._host, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def arrays(self) -> list[np.ndarray[Any, Any]]:
        """Waits for them."""
        if self._done is not None:
            self._done.synchronize()
        return [host.numpy() for host in self._host]


@dataclass(frozen=True, slots=True)
class _Report:
    """Log-probabilities and ranks of drawn tokens, and the likeliest tokens: of those draws that want them."""

    place_of: dict[int, int]  # draw -> its place in the columns
    counts: list[int]  # how many of the likeliest
    fetch: _Fetch  # logprobs [places], ranks [places], ids [places, k], logprobs [places, k]


def draw(
    logits: Tensor, asked: Sequence[DrawRow], history: Tensor, kernels: ModuleType, masks: Bits | None = None
) -> Drawn:
    """Draws a token for each of `asked`. `logits` are float32 [rows, vocabulary], and stay as they are.

    `kernels` has `draw` and `penalise` for the device; `masks` are uint32 [masks, words], see `octavo.sampling.masks`.
    """
    device = logits.device
    chosen = [one.row for one in asked]
    rows = to_device(chosen, torch.int64, device)
    source = logits if chosen == list(range(len(logits))) else logits[rows]
    raw_peaks: Tensor | None = None
    rules = [(i, rule) for i, one in enumerate(asked) for rule in one.options.rules if rule.applies(one.num_output)]
    if rules or masks is not None:
        raw_peaks = source.amax(1)
        source = source.clone() if source is logits else source
        if masks is not None:
            _mask(source, asked, masks)
        _apply(rules, source, asked, history, kernels)
    if all(one.options.temperature < GREEDY_BELOW for one in asked):
        peaks, tokens = source.max(1)
    else:
        peaks = source.amax(1)
        tokens = kernels.draw(source, *_parameters(asked, device))
    tokens = torch.where(peaks.isfinite(), tokens, UNUSABLE_LOGITS)
    if raw_peaks is not None:
        tokens = torch.where(raw_peaks.isfinite() & (peaks == -torch.inf), ALL_BANNED, tokens)
        tokens = torch.where(raw_peaks < torch.inf, tokens, UNUSABLE_LOGITS)  # NaN is not
    return Drawn(tokens, _report(logits, rows, source, asked, tokens))


def _mask(logits: Tensor, asked: Sequence[DrawRow], masks: Bits) -> None:
    """Leaves of row i of `logits` what the mask of the i-th draw allows, in place."""
    draws = [i for i, one in enumerate(asked) if one.mask >= 0]
    rows = to_device(draws, torch.int64, logits.device)
    words = to_device(masks[[asked[i].mask for i in draws]].view(np.int32), torch.int32, logits.device)
    bits = words[:, :, None] >> torch.arange(32, device=logits.device, dtype=torch.int32) & 1
    allowed = bits.view(len(draws), -1)[:, : logits.shape[1]] == 1
    logits[rows] = logits[rows].masked_fill(~allowed, -torch.inf)


def _apply(
    rules: list[tuple[int, Rule]], logits: Tensor, asked: Sequence[DrawRow], history: Tensor, kernels: ModuleType
) -> None:
    """Changes row i of `logits` in place by the rules of the i-th draw; `rules` has each with its draw's number."""
    integers = partial(to_device, dtype=torch.int64, device=logits.device)
    numbers = partial(to_device, dtype=torch.float32, device=logits.device)
    sequences = [(one.table_row, one.num_prompt, one.num_tokens) for one in asked]
    for kind in known_rules():
        rows = [row for row, rule in rules if isinstance(rule, kind)]
        if rows:
            batch = Batch(logits, rows, history, [sequences[row] for row in rows], integers, numbers, kernels)
            kind.apply_batch([rule for _, rule in rules if isinstance(rule, kind)], batch)


def _parameters(asked: Sequence[DrawRow], device: torch.device) -> tuple[Tensor, Tensor]:
    """temperature, top_p, min_p and the random number, float64 [4, draws]; and top_k, int32 [draws]."""
    options = [one.options for one in asked]
    numbers = np.array([(o.temperature, o.top_p, o.min_p, 0.0) for o in options]).T
    seeds = np.array([one.seed for one in asked], np.uint64)
    numbers[3] = uniforms(seeds, np.array([one.num_output for one in asked], np.uint64))
    top_k = [min(o.top_k, 2**31 - 1) for o in options]
    return to_device(numbers, torch.float64, device), to_device(top_k, torch.int32, device)


def _report(logits: Tensor, rows: Tensor, adjusted: Tensor, asked: Sequence[DrawRow], tokens: Tensor) -> _Report | None:
    wanted = [i for i, one in enumerate(asked) if one.options.num_logprobs >= 0]
    if not wanted:
        return None
    which = to_device(wanted, torch.int64, logits.device)
    found = logits[rows[which]]
    if any(asked[i].options.adjusted_logprobs for i in wanted):
        is_adjusted = to_device([asked[i].options.adjusted_logprobs for i in wanted], torch.bool, logits.device)
        found = torch.where(is_adjusted[:, None], adjusted[which], found)
    normaliser = found.logsumexp(1, keepdim=True)
    picked = found.gather(1, tokens[which].clamp(min=0)[:, None])
    ranks = 1 + (found > picked).sum(1)
    counts = [asked[i].options.num_logprobs for i in wanted]
    values, ids = found.topk(max(counts), dim=1)
    columns = ((picked - normaliser)[:, 0], ranks, ids, values - normaliser)
    return _Report({draw: place for place, draw in enumerate(wanted)}, counts, _Fetch(*columns))
