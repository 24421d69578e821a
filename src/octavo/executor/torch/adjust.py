"""What a request's parameters do to logits before a token is drawn, in the reference's order, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from octavo.executor.torch.step import to_device
from octavo.sampling.options import SamplerOptions


@dataclass(frozen=True, slots=True)
class TorchSampler:
    """A sequence's parameters and the seed of its random stream; its history is in the token table."""

    options: SamplerOptions
    seed: int


@dataclass(frozen=True, slots=True)
class DrawRow:
    """A draw from row `row` of the logits, for the sequence in row `table_row` of the token table."""

    sampler: TorchSampler
    row: int
    table_row: int
    num_prompt: int
    num_tokens: int  # of prompt and output so far

    @property
    def options(self) -> SamplerOptions:
        return self.sampler.options

    @property
    def num_output(self) -> int:
        return self.num_tokens - self.num_prompt


def adjusts(one: DrawRow) -> bool:
    """Whether the parameters change any logit."""
    o = one.options
    return (
        bool(o.bias_ids or o.allowed_ids or o.bad_words or o.timestamps)
        or one.num_output < o.min_tokens
        or _penalises(o)
    )


def _penalises(o: SamplerOptions) -> bool:
    return o.repetition_penalty != 1 or o.frequency_penalty != 0 or o.presence_penalty != 0


def adjust(logits: Tensor, asked: Sequence[DrawRow], history: Tensor, kernels: ModuleType) -> None:
    """Changes row i of `logits` in place as the i-th draw wants it."""
    added: list[tuple[int, int, float]] = []
    banned: list[tuple[int, int, float]] = []
    for i, one in enumerate(asked):
        o = one.options
        added += [(i, token, bias) for token, bias in zip(o.bias_ids, o.bias_values, strict=True)]
        if one.num_output < o.min_tokens:
            banned += [(i, token, -torch.inf) for token in o.early_stop_ids]
    _add(logits, added)
    _allow_only(logits, asked)
    _ban_words(logits, asked, history)
    _add(logits, banned)
    _penalise(logits, asked, history, kernels)
    _apply_timestamps(logits, asked, history)


def _apply_timestamps(logits: Tensor, asked: Sequence[DrawRow], history: Tensor) -> None:
    """`TimestampRules.apply` of many rows at once."""
    timed = [(i, one, one.options.timestamps) for i, one in enumerate(asked) if one.options.timestamps is not None]
    if not timed:
        return
    numbers = [
        (i, one.table_row, one.num_prompt, one.num_tokens, rules.begin, rules.end_of_text, rules.max_initial)
        for i, one, rules in timed
    ]
    at = to_device(numbers, torch.int64, logits.device).t()[:, :, None]
    rows, table_rows, num_prompt, num_tokens, begin, end_of_text, max_initial = at
    tokens = history[table_rows[:, 0], : max(one.num_tokens for _, one, _ in timed)].long()
    position = torch.arange(tokens.shape[1], device=tokens.device)
    is_output = (position >= num_prompt) & (position < num_tokens)
    times = torch.where(is_output & (tokens >= begin), tokens, -1)
    count = num_tokens - num_prompt

    def is_time(back: int) -> Tensor:
        return times.gather(1, (num_tokens - back).clamp(min=0)) >= 0

    last, before = (count > 0) & is_time(1), (count < 2) | is_time(2)
    token = torch.arange(logits.shape[1], device=logits.device)
    is_text, latest = token < begin, times.amax(1, keepdim=True)  # time goes on: the latest is the largest
    banned = (count == 0) & (is_text | (token > begin + max_initial))
    banned |= last & torch.where(before, ~is_text, token < end_of_text)
    banned |= (latest >= 0) & ~is_text & (token < latest + (~last | before).long())
    found = logits[rows[:, 0]].masked_fill(banned, -torch.inf)
    mass = found.masked_fill(is_text, -torch.inf).double().logsumexp(1, keepdim=True)
    text = found.masked_fill(~is_text, -torch.inf).amax(1, keepdim=True)
    logits[rows[:, 0]] = found.masked_fill(is_text & (mass > text), -torch.inf)


def _add(logits: Tensor, entries: list[tuple[int, int, float]]) -> None:
    """Adds to single logits: (row, token, value)."""
    if entries:
        rows, tokens, values = zip(*entries, strict=True)
        at = to_device([list(rows), list(tokens)], torch.int64, logits.device)
        logits.index_put_((at[0], at[1]), to_device(list(values), torch.float32, logits.device), accumulate=True)


def _allow_only(logits: Tensor, asked: Sequence[DrawRow]) -> None:
    limited = [(i, one.options.allowed_ids) for i, one in enumerate(asked) if one.options.allowed_ids]
    if limited:
        entries = [[place, token] for place, (_, allowed) in enumerate(limited) for token in allowed]
        at = to_device(entries, torch.int64, logits.device).t()
        rows = to_device([i for i, _ in limited], torch.int64, logits.device)
        is_banned = torch.ones(len(limited), logits.shape[1], dtype=torch.bool, device=logits.device)
        is_banned[at[0], at[1]] = False
        logits[rows] = logits[rows].masked_fill(is_banned, -torch.inf)


def _ban_words(logits: Tensor, asked: Sequence[DrawRow], history: Tensor) -> None:
    """Bans a word's last token where the output ends with those before it."""
    words = [
        (i, one, before, last)
        for i, one in enumerate(asked)
        for *before, last in one.options.bad_words
        if len(before) <= one.num_output
    ]
    if not words:
        return
    width = max(1, *(len(before) for _, _, before, _ in words))
    rows, tokens, places, expected = [], [], [], []
    for i, one, before, last in words:
        rows.append(i)
        tokens.append(last)
        first = one.table_row * history.shape[1] + one.num_tokens - len(before)
        places.append([first + j for j in range(len(before))] + [0] * (width - len(before)))
        expected.append(before + [-1] * (width - len(before)))
    at = to_device([rows, tokens], torch.int64, logits.device)
    compared = to_device([places, expected], torch.int64, logits.device)
    matches = (history.view(-1)[compared[0]] == compared[1]) | (compared[1] < 0)
    penalty = torch.where(matches.all(1), -torch.inf, 0.0)
    logits.index_put_((at[0], at[1]), penalty, accumulate=True)


def _penalise(logits: Tensor, asked: Sequence[DrawRow], history: Tensor, kernels: ModuleType) -> None:
    fined = [(i, one) for i, one in enumerate(asked) if _penalises(one.options)]
    if not fined:
        return
    rows = to_device([i for i, _ in fined], torch.int64, logits.device)
    places = [[one.table_row, one.num_prompt, one.num_tokens] for _, one in fined]
    penalties = [
        [o.repetition_penalty, o.frequency_penalty, o.presence_penalty] for o in (one.options for _, one in fined)
    ]
    changed = logits[rows]
    kernels.penalise(
        changed,
        history[:, : max(one.num_tokens for _, one in fined)],
        to_device(places, torch.int64, logits.device).t().contiguous(),
        to_device(penalties, torch.float32, logits.device).t().contiguous(),
    )
    logits[rows] = changed
