"""The logits pipeline for one row, as plainly as it can be written; the native sampler must agree with it.

The order is vLLM's: bias, allowed tokens, bans, penalties; then temperature, min_p, top_k, top_p, a draw.
Logits are adjusted in float32, so that both samplers order tokens alike; probabilities are summed in float64.

A draw inverts the cumulative distribution: it is the first token, in draw order, at which the kept mass
reaches u times the whole of it. Draw order is by falling logit where top_k, top_p or min_p is on (of equal
logits the lower token id comes first), else by token id. `u` is `uniform(seed, position)`, whatever else the
batch has.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from octavo.sampling.timestamps import TimestampRules

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Masses = npt.NDArray[np.float64]

GREEDY_BELOW = 1e-5
_U64 = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int) -> float:
    """The random number of a seed at a position, in (0, 1]: splitmix64, started at the hash of the seed."""
    bits = _mix(_mix((seed + _STEP) & _U64) + _STEP * (position + 1) & _U64)
    return ((bits >> 11) + 1) * 2.0**-53


def _mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _U64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _U64
    return z ^ z >> 31


@dataclass
class Sampled:
    """A drawn token, and what is reported with it."""

    token: int  # -1 where the logits have NaN or infinity, -2 where every token is banned
    logprob: float
    rank: int  # 1 is the likeliest
    top_ids: Ids
    top_logprobs: Masses


@dataclass
class ReferenceSampler:
    """The parameters of `octavo._native.SequenceSampler`, and what it does, in the plainest way."""

    vocab_size: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    bias_ids: list[int] = field(default_factory=list)
    bias_values: list[float] = field(default_factory=list)
    allowed_ids: list[int] = field(default_factory=list)
    bad_words: list[list[int]] = field(default_factory=list)
    min_tokens: int = 0
    early_stop_ids: list[int] = field(default_factory=list)
    prompt_token_ids: list[int] = field(default_factory=list)
    num_logprobs: int = 0
    adjusted_logprobs: bool = False
    timestamps: TimestampRules | None = None
    output: list[int] = field(default_factory=list)

    def accept(self, token: int) -> None:
        self.output.append(token)

    def fork(self, seed: int) -> ReferenceSampler:
        copy = deepcopy(self)
        copy.seed = seed
        return copy

    def sample(self, logits: Logits) -> Sampled:
        """Draws the next token from `logits`, float32 [vocab_size]."""
        adjusted = self.adjusted(logits)
        unusable = np.isnan(logits).any() or (logits == np.inf).any() or (adjusted == np.inf).any()
        if unusable or (adjusted == -np.inf).all():
            banned = not unusable and (logits > -np.inf).any()
            return Sampled(-2 if banned else -1, np.nan, 0, np.array([], np.int64), np.array([]))
        token = self.draw(adjusted)
        reported = adjusted if self.adjusted_logprobs else logits
        logprobs = log_softmax(reported)
        top = falling(reported)[: self.num_logprobs]
        rank = 1 + int((reported > reported[token]).sum())
        return Sampled(token, float(logprobs[token]), rank, top, logprobs[top])

    def adjusted(self, logits: Logits) -> Logits:
        """The logits after bias, allowed tokens, bans, penalties, and the rules of timestamps."""
        x = logits.copy()
        x[self.bias_ids] += np.array(self.bias_values, np.float32)
        if self.allowed_ids:
            x[np.setdiff1d(np.arange(self.vocab_size), self.allowed_ids)] = -np.inf
        for *before, last in self.bad_words:
            if self.output[len(self.output) - len(before) :] == before and len(before) <= len(self.output):
                x[last] = -np.inf
        if len(self.output) < self.min_tokens:
            x[self.early_stop_ids] = -np.inf
        repetition = np.float32(self.repetition_penalty)
        if repetition != 1:
            for token in {*self.prompt_token_ids, *self.output}:
                x[token] = x[token] / repetition if x[token] > 0 else x[token] * repetition
        for token, count in Counter(self.output).items():
            x[token] -= np.float32(self.frequency_penalty) * np.float32(count)
            x[token] -= np.float32(self.presence_penalty)
        if self.timestamps is not None:
            self.timestamps.apply(x, self.output)
        return x

    def draw(self, adjusted: Logits) -> int:
        if self.temperature < GREEDY_BELOW:
            return int(adjusted.argmax())
        ids, weights = self.candidates(adjusted)
        cumulative = np.cumsum(weights)
        target = uniform(self.seed, len(self.output)) * cumulative[-1]
        return int(ids[np.searchsorted(cumulative, target)])

    def candidates(self, adjusted: Logits) -> tuple[Ids, Masses]:
        """What a draw may give, in draw order, and the weights: exp((logit - largest) / temperature)."""
        below_max = adjusted.astype(np.float64) - adjusted.max()
        weights = np.exp(below_max / self.temperature)
        has_top_k = 0 < self.top_k < self.vocab_size
        if not has_top_k and self.top_p == 1 and self.min_p == 0:
            return np.arange(self.vocab_size), weights
        ids = falling(adjusted)
        if self.min_p > 0:
            ids = ids[below_max[ids] >= self.temperature * np.log(self.min_p)]
        if has_top_k:
            ids = ids[: self.top_k]
        if self.top_p < 1:
            cumulative = np.cumsum(weights[ids])
            ids = ids[: 1 + np.searchsorted(cumulative, self.top_p * cumulative[-1])]
        return ids, weights[ids]


def falling(logits: Logits) -> Ids:
    """Ids of the possible tokens by falling logit; of equal logits the lower id comes first."""
    ids = np.argsort(-logits, kind="stable")
    return ids[logits[ids] > -np.inf]


def log_softmax(logits: Logits) -> Masses:
    """Log-probabilities in float64."""
    shifted = logits.astype(np.float64) - logits.max()
    logprobs: Masses = shifted - np.log(np.exp(shifted).sum())
    return logprobs
