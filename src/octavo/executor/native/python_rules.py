"""Draws of sequences whose rules have no native form: their references, in Python, change the logits instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from octavo import _native
from octavo.executor.base import ALL_BANNED, UNUSABLE_LOGITS, Ids, Logits
from octavo.sampling.masks import Bits, allowed_tokens
from octavo.sampling.options import SamplerOptions
from octavo.sampling.rules import apply_rules


class Ruled(NamedTuple):
    """What a sequence wants of its draws, and the tokens of its output."""

    options: SamplerOptions
    output: list[int]


class Adjusted:
    """`_native.SampleResult` of rows of which some were adjusted in Python; `ruled` are these draws, by number.

    Their samplers have no rules of their own.
    """

    def __init__(
        self,
        logits: Logits,
        rows: Sequence[int],
        samplers: Sequence[_native.SequenceSampler],
        ruled: Mapping[int, Ruled],
        masks: Bits | None = None,
        mask_rows: Sequence[int] = (),
    ):
        adjusted = logits[list(rows)]  # a copy
        for i, (options, output) in ruled.items():
            if masks is not None and mask_rows[i] >= 0:
                adjusted[i, ~allowed_tokens(masks[mask_rows[i]], adjusted.shape[1])] = -np.inf
            apply_rules(options.rules, adjusted[i], output)
        self._drawn = _native.sample(adjusted, list(range(len(rows))), list(samplers), masks, list(mask_rows))
        self.tokens: Ids = self._drawn.tokens.copy()
        self.logprobs: Logits = self._drawn.logprobs.copy()
        self.ranks: Ids = self._drawn.ranks.copy()
        self._top: dict[int, tuple[Ids, Logits]] = {}
        for i, (options, _) in ruled.items():
            if self.tokens[i] == UNUSABLE_LOGITS and np.isfinite(logits[rows[i]].max()):
                self.tokens[i] = ALL_BANNED
            elif options.num_logprobs >= 0 and not options.adjusted_logprobs:
                self._report(i, logits[rows[i] : rows[i] + 1], options.num_logprobs)

    def top(self, i: int) -> tuple[Ids, Logits]:
        return self._top[i] if i in self._top else self._drawn.top(i)

    def _report(self, i: int, row: Logits, count: int) -> None:
        """Log-probabilities of the model, before its rules."""
        found = _native.top_logprobs(row, count, [max(int(self.tokens[i]), 0)])
        self.logprobs[i], self.ranks[i] = found.chosen[0], found.ranks[0]
        self._top[i] = found.ids[0], found.logprobs[0]
