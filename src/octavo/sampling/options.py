"""From the parameters of a request to what a sampler looks at, whichever executor draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from octavo.errors import NoTokenError, ParameterError
from octavo.sampling.timestamps import Logits, TimestampRules
from octavo.sampling_params import SamplingParams

Ids = np.ndarray[Any, np.dtype[np.int64]]

_MAX_BIAS = 1e30  # more would overflow float32, and mean the same


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerOptions:
    """Everything that decides how a sequence's tokens are drawn, but its seed. Neutral values ask for nothing.

    `num_logprobs` is how many of the likeliest tokens are reported; with -1 the chosen one isn't either. Their
    log-probabilities are those of the model, or, with `adjusted_logprobs`, after everything that precedes temperature.
    """

    vocab_size: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bias_ids: list[int] = field(default_factory=list)
    bias_values: list[float] = field(default_factory=list)
    allowed_ids: list[int] = field(default_factory=list)  # none: all
    bad_words: list[list[int]] = field(default_factory=list)
    min_tokens: int = 0
    early_stop_ids: list[int] = field(default_factory=list)  # banned while there are fewer than `min_tokens`
    prompt_token_ids: list[int] = field(default_factory=list)
    num_logprobs: int = -1
    adjusted_logprobs: bool = False
    timestamps: TimestampRules | None = None


@dataclass(frozen=True, kw_only=True)
class SpeechRules:
    """What no user asks for, and text of speech needs: tokens that are never drawn, or not first, and timestamps."""

    suppressed_ids: tuple[int, ...] = ()
    suppressed_first_ids: tuple[int, ...] = ()
    timestamps: TimestampRules | None = None

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        """Bans, in place, the tokens that may not follow `output`: `logits` are float32 [vocabulary]."""
        logits[self._suppressed] = -np.inf
        if not output:
            logits[list(self.suppressed_first_ids)] = -np.inf
        if self.timestamps is not None:
            self.timestamps.apply(logits, output)

    @cached_property
    def _suppressed(self) -> Ids:
        return np.array(self.suppressed_ids, np.int64)


def sampler_options(
    params: SamplingParams,
    *,
    vocab_size: int,
    prompt_token_ids: list[int],
    end_ids: Iterable[int] = (),
    bad_words: list[list[int]] | None = None,
    rules: SpeechRules = SpeechRules(),
    adjusted_logprobs: bool = False,
) -> SamplerOptions:
    """The options of a request's sequences.

    `end_ids` are the tokens that end the text, banned before `min_tokens`; `bad_words` are the tokens of
    `params.bad_words`. Raises `ParameterError` for a token id outside the vocabulary, `NoTokenError` where every first
    token is banned.
    """
    bias = params.logit_bias or {}
    allowed = params.allowed_token_ids or []
    stops = params.stop_token_ids or []
    for name, ids in {"logit_bias": bias, "allowed_token_ids": allowed, "stop_token_ids": stops}.items():
        for token in ids:
            if token >= vocab_size:
                raise ParameterError(name, token, f"token ids below {vocab_size}, the size of the vocabulary")
    num_logprobs = -1 if params.logprobs is None else params.logprobs
    if params.num_sequences > params.n:
        num_logprobs = max(num_logprobs, 0)  # the sum of log-probabilities decides which samples are returned
    early_stops, min_tokens = (sorted(end_ids) if params.min_tokens else []), params.min_tokens
    if rules.suppressed_first_ids and not min_tokens:
        early_stops, min_tokens = list(rules.suppressed_first_ids), 1
    banned = {*early_stops, *(word[0] for word in bad_words or () if len(word) == 1)}
    names = banning(params)
    if names and banned.issuperset(allowed or range(vocab_size)):
        raise NoTokenError(names)
    return SamplerOptions(
        vocab_size=vocab_size,
        temperature=min(params.temperature, _MAX_BIAS),
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        bias_ids=[*bias, *rules.suppressed_ids],
        bias_values=[max(-_MAX_BIAS, min(value, _MAX_BIAS)) for value in bias.values()]
        + [-np.inf] * len(rules.suppressed_ids),
        allowed_ids=list(allowed),
        bad_words=bad_words or [],
        min_tokens=min_tokens,
        early_stop_ids=early_stops,
        prompt_token_ids=prompt_token_ids if params.repetition_penalty != 1 else [],
        num_logprobs=vocab_size if params.logprobs == -1 else num_logprobs,
        adjusted_logprobs=adjusted_logprobs,
        timestamps=rules.timestamps,
    )


def banning(params: SamplingParams) -> list[str]:
    """The names of the parameters that ban tokens."""
    names = [name for name in ("allowed_token_ids", "bad_words", "min_tokens") if getattr(params, name)]
    return [*names, "stop_token_ids"] if params.min_tokens and params.stop_token_ids else names


def sequence_seed(seed: int, index: int) -> int:
    """The seed, in [0, 2**64), of sequence `index` of a request with this seed."""
    return (seed + index) % 2**64
