"""The logits pipeline for one row, as plainly as it can be written; the native sampler must agree with it.

The order is vLLM's: a mask; rules, stage by stage; then temperature, min_p, top_k, top_p, a draw.
Rules change logits in float32, so that both samplers order tokens alike; probabilities are summed in float64.

A draw inverts the cumulative distribution: it is the first token, in draw order, at which the kept mass
reaches u times the whole of it. Draw order is by falling logit where top_k, top_p or min_p is on (of equal
logits the lower token id comes first), else by token id. `u` is `uniform(seed, position)`, whatever else the
batch has.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from octavo.sampling.options import SamplerOptions, uniforms
from octavo.sampling.rules import apply_rules
from octavo.sampling.rules.base import Logits
from octavo.sampling_params import GREEDY_BELOW

Ids = npt.NDArray[np.int64]
Masses = npt.NDArray[np.float64]


def uniform(seed: int, position: int) -> float:
    return float(uniforms(np.array([seed], np.uint64), np.array([position], np.uint64))[0])


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
    """What `octavo._native.SequenceSampler` does, in the plainest way."""

    options: SamplerOptions
    seed: int = 0
    output: list[int] = field(default_factory=list)

    def accept(self, token: int) -> None:
        self.output.append(token)

    def sample(self, logits: Logits, allowed: npt.NDArray[np.bool_] | None = None) -> Sampled:
        """Draws the next token from `logits`, float32 [vocab_size], of which a mask may allow some only."""
        adjusted = self.adjusted(logits if allowed is None else np.where(allowed, logits, np.float32(-np.inf)))
        unusable = np.isnan(logits).any() or (logits == np.inf).any() or (adjusted == np.inf).any()
        if unusable or (adjusted == -np.inf).all():
            banned = not unusable and (logits > -np.inf).any()
            return Sampled(-2 if banned else -1, np.nan, 0, np.array([], np.int64), np.array([]))
        token = self.draw(adjusted)
        reported = adjusted if self.options.adjusted_logprobs else logits
        logprobs = log_softmax(reported)
        top = falling(reported)[: max(0, self.options.num_logprobs)]
        rank = 1 + int((reported > reported[token]).sum())
        return Sampled(token, float(logprobs[token]), rank, top, logprobs[top])

    def adjusted(self, logits: Logits) -> Logits:
        """The logits after the rules."""
        x = logits.copy()
        apply_rules(self.options.rules, x, self.output)
        return x

    def draw(self, adjusted: Logits) -> int:
        if self.options.temperature < GREEDY_BELOW:
            return int(adjusted.argmax())
        ids, weights = self.candidates(adjusted)
        cumulative = np.cumsum(weights)
        target = uniform(self.seed, len(self.output)) * cumulative[-1]
        return int(ids[np.searchsorted(cumulative, target)])

    def candidates(self, adjusted: Logits) -> tuple[Ids, Masses]:
        """What a draw may give, in draw order, and the weights: exp((logit - largest) / temperature)."""
        o = self.options
        below_max = adjusted.astype(np.float64) - adjusted.max()
        weights = np.exp(below_max / o.temperature)
        has_top_k = 0 < o.top_k < o.vocab_size
        if not has_top_k and o.top_p == 1 and o.min_p == 0:
            return np.arange(o.vocab_size), weights
        ids = falling(adjusted)
        if o.min_p > 0:
            ids = ids[below_max[ids] >= o.temperature * np.log(o.min_p)]
        if has_top_k:
            ids = ids[: o.top_k]
        if o.top_p < 1:
            cumulative = np.cumsum(weights[ids])
            ids = ids[: 1 + np.searchsorted(cumulative, o.top_p * cumulative[-1])]
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
