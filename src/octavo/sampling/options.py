"""From the parameters of a request to what a sampler looks at, whichever executor draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo.errors import NoTokenError
from octavo.sampling.rules import apply_rules, banning, known_rules
from octavo.sampling.rules.base import Rule, RuleRequest, Stage

U64s = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64
MAX_TEMPERATURE = 1e30  # it is all the same from here on, and 1 / temperature stays a number


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerOptions:
    """Everything that decides how a sequence's tokens are drawn, but its seed. Neutral values ask for nothing.

    `rules` are in the order of their stages. `num_logprobs` is how many of the likeliest tokens are reported; with -1
    the chosen one isn't either. Their log-probabilities are those of the model, or, with `adjusted_logprobs`, after
    the rules.
    """

    vocab_size: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    num_logprobs: int = -1
    adjusted_logprobs: bool = False
    rules: Sequence[Rule] = ()

    @property
    def prompt_token_ids(self) -> Sequence[int]:
        """What rules look at of the prompt."""
        return next((rule.prompt_token_ids for rule in self.rules if rule.prompt_token_ids), ())

    def for_sequence(self, output: Sequence[int]) -> SamplerOptions:
        """With the rules for one sequence, whose tokens will be in `output`."""
        return replace(self, rules=tuple(rule.for_sequence(output) for rule in self.rules))

    def as_data(self) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
        """The options and the rules as `octavo._native.SequenceSampler` takes them."""
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "rules"}
        return options, [rule.as_data() for rule in self.rules]


def sampler_options(
    request: RuleRequest, rules: Iterable[Rule] = (), adjusted_logprobs: bool = False
) -> SamplerOptions:
    """The options of a request's sequences; `rules` are those that no parameter asks for.

    Raises `ParameterError` for a token id outside the vocabulary, `NoTokenError` where every first token is banned.
    """
    params, vocab_size = request.params, request.vocab_size
    asked = [rule for kind in known_rules() if (rule := kind.of(request)) is not None]
    ordered = sorted((*asked, *rules), key=lambda rule: rule.stage)
    if names := banning(params):
        logits = np.zeros(vocab_size, np.float32)
        apply_rules((rule for rule in ordered if rule.stage is Stage.BAN), logits, [])
        if (logits == -np.inf).all():
            raise NoTokenError(names)
    num_logprobs = -1 if params.logprobs is None else params.logprobs
    if params.num_sequences > params.n:
        num_logprobs = max(num_logprobs, 0)  # the sum of log-probabilities decides which samples are returned
    return SamplerOptions(
        vocab_size=vocab_size,
        temperature=min(params.temperature, MAX_TEMPERATURE),
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        num_logprobs=vocab_size if params.logprobs == -1 else num_logprobs,
        adjusted_logprobs=adjusted_logprobs,
        rules=tuple(ordered),
    )


def sequence_seed(seed: int, index: int) -> int:
    """The seed, in [0, 2**64), of sequence `index` of a request with this seed."""
    return (seed + index) % 2**64


def uniforms(seeds: U64s, positions: U64s) -> npt.NDArray[np.float64]:
    """The random numbers of seeds at positions, in (0, 1]: splitmix64, started at the hash of the seed."""
    bits = _mix(_mix(seeds + _STEP) + _STEP * (positions + np.uint64(1)))
    numbers: npt.NDArray[np.float64] = ((bits >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53
    return numbers


def _mix(z: U64s) -> U64s:
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)
