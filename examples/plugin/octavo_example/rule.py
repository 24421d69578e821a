"""A rule on logits that a request asks for by `extra_args={"no_repeat": N}`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from octavo.errors import ParameterError
from octavo.sampling.rules.base import Logits, Rule, RuleRequest, Stage


@dataclass(frozen=True)
class NoRepeat(Rule, name="no_repeat", stage=Stage.BAN, extra_args=("no_repeat",)):
    """Bans the last `count` tokens of the output."""

    count: int

    @classmethod
    def of(cls, request: RuleRequest) -> Self | None:
        count = (request.params.extra_args or {}).get("no_repeat")
        if count is None:
            return None
        if not isinstance(count, int) or count < 1:
            raise ParameterError("no_repeat", count, "an integer of at least 1")
        return cls(count)

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        logits[np.array(output[-self.count :], np.int64)] = -np.inf
