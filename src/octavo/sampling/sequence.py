"""From the parameters of a request to the native samplers of its sequences."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

from octavo import _native
from octavo.errors import ParameterError
from octavo.sampling_params import SamplingParams

_MAX_BIAS = 1e30  # more would overflow float32, and mean the same


def make_sampler(
    params: SamplingParams,
    *,
    vocab_size: int,
    prompt_token_ids: list[int],
    eos_token_ids: Iterable[int] = (),
    bad_words: list[list[int]] | None = None,
    index: int = 0,
) -> Any:
    """The `_native.SequenceSampler` of sequence `index` of a request.

    `eos_token_ids` and `params.stop_token_ids` are banned before `min_tokens`; `bad_words` are the tokens of
    `params.bad_words`. Raises `ParameterError` for a token id outside the vocabulary.
    """
    bias = params.logit_bias or {}
    allowed = params.allowed_token_ids or []
    stops = params.stop_token_ids or []
    for name, ids in {"logit_bias": bias, "allowed_token_ids": allowed, "stop_token_ids": stops}.items():
        for token in ids:
            if token >= vocab_size:
                raise ParameterError(name, token, f"token ids below {vocab_size}, the size of the vocabulary")
    num_logprobs = -1 if params.logprobs is None else params.logprobs
    return _native.SequenceSampler(
        vocab_size,
        temperature=min(params.temperature, _MAX_BIAS),
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        seed=sequence_seed(params.seed, index),
        bias_ids=list(bias),
        bias_values=[max(-_MAX_BIAS, min(value, _MAX_BIAS)) for value in bias.values()],
        allowed_ids=allowed,
        bad_words=bad_words or [],
        min_tokens=params.min_tokens,
        early_stop_ids=sorted({*eos_token_ids, *stops}),
        prompt_token_ids=prompt_token_ids if params.repetition_penalty != 1 else [],
        num_logprobs=vocab_size if params.logprobs == -1 else num_logprobs,
    )


def sequence_seed(seed: int | None, index: int) -> int:
    """The seed, in [0, 2**64), of sequence `index` of a request; fresh entropy where the request has none."""
    return secrets.randbits(64) if seed is None else (seed + index) % 2**64
