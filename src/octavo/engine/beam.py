"""Beam search: which continuations live on, and which finished ones are the best.

Scores are sums of log-probabilities over the generated tokens, divided by length ** length_penalty when they are
compared (Wu et al. 2016, and transformers' `generate`, whose results these are).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from octavo import _native
from octavo.errors import NumericalError
from octavo.executor.base import StepResult
from octavo.request import Chunk, Request, Sequence
from octavo.sampling.rules import apply_rules
from octavo.sampling.rules.base import Rule
from octavo.scheduler.scheduler import Scheduler


@dataclass(slots=True)
class Beam:
    """A continuation: the tokens so far, the log-probability of each, and of all; what follows is of a finished one."""

    sequence: Sequence
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    logprob: float = 0.0
    score: float = 0.0
    finish_reason: str | None = None
    stop_reason: int | None = None


class BeamSearch:
    """The state of one request's search. `ends` are the tokens that finish a beam.

    The sequences of the beams share the blocks of what they have in common.
    """

    def __init__(
        self,
        request: Request,
        width: int,
        max_tokens: int,
        eos_token_id: int | None,
        ends: frozenset[int],
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
    ):
        self.request, self.width, self.max_tokens = request, width, max_tokens
        self.eos_token_id, self.ends = eos_token_id, ends
        self.length_penalty, self.early_stopping = length_penalty, early_stopping
        self.beams = [Beam(request.sequences[0])]  # those that live
        self.finished: list[Beam] = []  # the best ones first

    def advance(
        self, scheduler: Scheduler, ends: list[tuple[Chunk, int]], result: StepResult, rules: Iterable[Rule] = ()
    ) -> None:
        """Replaces the beams by those of the next step, none at the end; `ends` has a row of logits for each.

        Raises NumericalError.
        """
        row_of = {chunk.sequence: row for chunk, row in ends}
        logits = result.logits[[row_of[beam.sequence] for beam in self.beams]]
        for row, beam in zip(logits, self.beams, strict=True):
            apply_rules(rules, row, beam.tokens)
        # So many of a beam's likeliest tokens are enough to go on, even if every end is among them.
        num_candidates = max(2, 1 + len(self.ends)) * self.width
        found = _native.top_logprobs(logits, min(num_candidates, logits.shape[1]), [0] * len(logits))
        if np.isnan(found.logprobs[:, 0]).any():
            raise NumericalError
        ranked = sorted(
            (-(beam.logprob + logprob), parent, token, logprob)
            for parent, beam in enumerate(self.beams)
            for token, logprob in zip(found.ids[parent].tolist(), found.logprobs[parent].tolist(), strict=True)
            if token >= 0
        )
        before, self.beams = self.beams, []
        for rank, (minus_total, index, token, logprob) in enumerate(ranked[:num_candidates]):
            parent = before[index]
            beam = Beam(parent.sequence, [*parent.tokens, token], [*parent.logprobs, logprob], -minus_total)
            if token not in self.ends:
                self.beams.append(beam)
            elif rank < self.width:
                self._finish(beam, "stop", None if token == self.eos_token_id else token)
            if len(self.beams) == self.width:
                break
        if self.beams and len(self.beams[0].tokens) >= self.max_tokens:
            self.cut()
        elif self.beams and self._is_done():
            self.beams = []
        self._continue_sequences(scheduler, [beam.sequence for beam in before])

    def cut(self) -> None:
        """Ends the search: the living beams are finished as they are."""
        for beam in self.beams:
            self._finish(beam, "length", None)
        self.beams = []

    def _continue_sequences(self, scheduler: Scheduler, before: list[Sequence]) -> None:
        """The first beam of a sequence goes on with it, others fork it, and what nobody continues is over."""
        kept: set[Sequence] = set()
        for index, beam in enumerate(self.beams):
            parent = beam.sequence
            if parent in kept:
                beam.sequence = Sequence(index, parent.tokens[:-1], parent.num_prompt_tokens)
                scheduler.fork(self.request, parent, beam.sequence)
            kept.add(beam.sequence)
            beam.sequence.tokens.append(beam.tokens[-1])
        for sequence in before:
            if sequence not in kept:
                scheduler.finish_sequence(self.request, sequence)

    def _finish(self, beam: Beam, reason: str, stop: int | None) -> None:
        beam.score = self._score(beam.logprob, len(beam.tokens))
        beam.finish_reason, beam.stop_reason = reason, stop
        self.finished.append(beam)
        self.finished.sort(key=lambda beam: -beam.score)
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
