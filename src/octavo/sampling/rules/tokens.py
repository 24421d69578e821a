"""Rules about single tokens: a bias, what is allowed, what is banned, what ends a word that is banned, penalties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from octavo.sampling.rules.base import Batch, Logits, Rule, RuleRequest, Stage

_MAX_BIAS = 1e30  # more would overflow float32, and mean the same
_ALWAYS = 2**31 - 1  # tokens: more than any context has


@dataclass(frozen=True)
class LogitBias(Rule, name="logit_bias", stage=Stage.BIAS):
    """Adds `values[i]` to the logit of `token_ids[i]`, no two of which are the same."""

    token_ids: Sequence[int]
    values: Sequence[float]

    @classmethod
    def of(cls, request: RuleRequest) -> Self | None:
        ids, bias = request.token_ids("logit_bias"), request.params.logit_bias or {}
        return cls(ids, [max(-_MAX_BIAS, min(value, _MAX_BIAS)) for value in bias.values()]) if bias else None

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        logits[np.array(self.token_ids)] += np.array(self.values, np.float32)

    @staticmethod
    def apply_batch(rules: Sequence[LogitBias], batch: Batch) -> None:
        values = batch.numbers(np.concatenate([rule.values for rule in rules]))
        batch.logits.index_put_(batch.places(batch.rows, [rule.token_ids for rule in rules]), values, accumulate=True)


@dataclass(frozen=True)
class AllowedTokens(Rule, name="allowed_tokens", stage=Stage.BAN, banning=("allowed_token_ids",)):
    """Bans all other tokens."""

    token_ids: Sequence[int]

    @classmethod
    def of(cls, request: RuleRequest) -> Self | None:
        ids = request.token_ids("allowed_token_ids")
        return cls(ids) if ids else None

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        logits[np.setdiff1d(np.arange(logits.size), self.token_ids)] = -np.inf

    @staticmethod
    def apply_batch(rules: Sequence[AllowedTokens], batch: Batch) -> None:
        bias = batch.logits.new_full((len(rules), batch.logits.shape[1]), -np.inf)
        bias[batch.places(range(len(rules)), [rule.token_ids for rule in rules])] = 0
        batch.logits[batch.device_rows] += bias


@dataclass(frozen=True)
class SuppressedTokens(Rule, name="suppressed_tokens", stage=Stage.BAN, banning=("min_tokens", "stop_token_ids")):
    """Bans `token_ids` until there are `min_tokens` tokens of output."""

    token_ids: Sequence[int]
    min_tokens: int = _ALWAYS

    @classmethod
    def of(cls, request: RuleRequest) -> Self | None:
        request.token_ids("stop_token_ids")  # they are among the ends
        min_tokens = request.params.min_tokens
        return cls(sorted(request.end_ids), min_tokens) if min_tokens else None

    def applies(self, num_output: int) -> bool:
        return num_output < self.min_tokens

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        logits[np.array(self.token_ids, np.int64)] = -np.inf

    @staticmethod
    def apply_batch(rules: Sequence[SuppressedTokens], batch: Batch) -> None:
        batch.logits[batch.places(batch.rows, [rule.token_ids for rule in rules])] = -np.inf


@dataclass(frozen=True)
class BadWords(Rule, name="bad_words", stage=Stage.BAN, banning=("bad_words",)):
    """Bans a word's last token where the output ends with the tokens before it."""

    words: Sequence[Sequence[int]]

    @classmethod
    def of(cls, request: RuleRequest) -> Self | None:
        return cls(request.bad_words) if request.bad_words else None

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        for *before, last in self.words:
            if len(before) <= len(output) and [*output[len(output) - len(before) :]] == before:
                logits[last] = -np.inf

    @staticmethod
    def apply_batch(rules: Sequence[BadWords], batch: Batch) -> None:
        words = [
            (i, word)
            for i, (rule, (_, prompt, length)) in enumerate(zip(rules, batch.sequences, strict=True))
            for word in rule.words
            if len(word) - 1 <= length - prompt
        ]
        if not words:
            return
        width = max(len(word) for _, word in words)
        which = batch.integers([i for i, _ in words])
        *before, last = batch.integers([[-1] * (width - len(word)) + [*word] for _, word in words]).t()
        table_rows, _, length = batch.device_sequences[:, which]
        bias = batch.numbers(np.full(len(words), -np.inf))
        for back, wanted in enumerate(reversed(before), 1):  # -1 is any token
            token = batch.history[table_rows, (length - back).clamp(min=0)]
            bias = bias.masked_fill((token != wanted) & (wanted >= 0), 0)
        batch.logits.index_put_((batch.device_rows[which], last), bias, accumulate=True)


@dataclass(frozen=True, kw_only=True)
class Penalties(Rule, name="penalties", stage=Stage.PENALTY):
    """`repetition` divides positive logits of tokens of prompt and output, and multiplies negative ones.

    Then `frequency` times a token's number in the output, and `presence` where it is there at all, are subtracted.
    """

    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    prompt_token_ids: Sequence[int] = ()  # where `repetition` is not 1

    @classmethod
    def of(cls, request: RuleRequest) -> Self | None:
        params = request.params
        repetition, frequency, presence = params.repetition_penalty, params.frequency_penalty, params.presence_penalty
        prompt = tuple(request.prompt_token_ids) if repetition != 1 else ()
        rule = cls(repetition=repetition, frequency=frequency, presence=presence, prompt_token_ids=prompt)
        return rule if rule != cls() else None

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        repetition, frequency, presence = np.array([self.repetition, self.frequency, self.presence], np.float32)
        for token in {*self.prompt_token_ids, *output} if repetition != 1 else ():
            logits[token] = logits[token] / repetition if logits[token] > 0 else logits[token] * repetition
        for token, count in Counter(output).items():
            logits[token] -= frequency * np.float32(count)
            logits[token] -= presence

    @staticmethod
    def apply_batch(rules: Sequence[Penalties], batch: Batch) -> None:
        changed = batch.logits[batch.device_rows]
        history = batch.history[:, : max(length for _, _, length in batch.sequences)]
        penalties = batch.numbers(np.array([[rule.repetition, rule.frequency, rule.presence] for rule in rules]).T)
        batch.kernels.penalise(changed, history, batch.device_sequences, penalties)
        batch.logits[batch.device_rows] = changed
