"""Beam search: which continuations live on, and which finished ones are the best.

Scores are sums of log-probabilities over the generated tokens, divided by length ** length_penalty when they are
compared (Wu et al. 2016, and transformers' `generate`, whose results these are).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class Hypothesis:
    """A finished continuation."""

    tokens: list[int]
    logprobs: list[float]  # of each token
    logprob: float
    score: float
    finish_reason: str
    stop_reason: int | None


@dataclass(slots=True)
class Beam:
    """A living continuation: the tokens so far, the log-probability of each, and of all."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class Extension:
    """The beam at index `parent` is continued by `token`."""

    parent: int
    token: int


@dataclass(slots=True)
class BeamSearch:
    """The state of one request's search. `ends` are the tokens that finish a hypothesis."""

    width: int
    max_tokens: int
    eos_token_id: int | None
    ends: frozenset[int]
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    beams: list[Beam] = field(default_factory=lambda: [Beam()])
    finished: list[Hypothesis] = field(default_factory=list)

    @property
    def num_candidates(self) -> int:
        """How many of the likeliest tokens of a beam are looked at: enough to go on even if every end is among them."""
        return max(2, 1 + len(self.ends)) * self.width

    def advance(self, candidates: list[list[tuple[int, float]]]) -> list[Extension]:
        """Takes each beam's likeliest (token, logprob) pairs; returns the beams of the next step, none at the end."""
        ranked = sorted(
            (
                (beam.logprob + logprob, -parent, token, logprob)
                for parent, beam in enumerate(self.beams)
                for token, logprob in candidates[parent]
            ),
            key=lambda entry: (-entry[0], -entry[1], entry[2]),
        )
        extensions: list[Extension] = []
        following: list[Beam] = []
        for rank, (total, minus_parent, token, logprob) in enumerate(ranked[: self.num_candidates]):
            parent = self.beams[-minus_parent]
            beam = Beam([*parent.tokens, token], [*parent.logprobs, logprob], total)
            if token in self.ends:
                if rank < self.width:
                    self._finish(beam, "stop", None if token == self.eos_token_id else token)
                continue
            extensions.append(Extension(-minus_parent, token))
            following.append(beam)
            if len(following) == self.width:
                break
        self.beams = following
        if following and len(following[0].tokens) >= self.max_tokens:
            self.cut()
        elif following and self._is_done():
            self.beams = []
        return extensions if self.beams else []

    def cut(self) -> None:
        """Ends the search: the living beams are finished as they are."""
        for beam in self.beams:
            self._finish(beam, "length", None)
        self.beams = []

    def best(self, n: int) -> list[Hypothesis]:
        """The n best finished hypotheses, best first."""
        return self.finished[:n]

    def _finish(self, beam: Beam, reason: str, stop: int | None) -> None:
        score = self._score(beam.logprob, len(beam.tokens))
        self.finished.append(Hypothesis(beam.tokens, beam.logprobs, beam.logprob, score, reason, stop))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.width :]

    def _score(self, logprob: float, length: int) -> float:
        return float(logprob / length**self.length_penalty)

    def _is_done(self) -> bool:
        """Whether no living beam can still get among the best, by the rule that was asked for."""
        if len(self.finished) < self.width:
            return False
        if self.early_stopping is True:
            return True
        length = len(self.beams[0].tokens)
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = self.max_tokens
        best = self._score(max(beam.logprob for beam in self.beams), length)
        return self.finished[-1].score >= best
