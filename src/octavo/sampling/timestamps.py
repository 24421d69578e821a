"""The rules of timestamps in Whisper's output, as logits see them. The samplers of all executors must agree with them.

A text is made of segments, each between two timestamps, the end of one followed by the beginning of the next:
<|0.00|> Hello.<|1.40|><|2.00|> Is anybody there?<|3.10|>. (Radford et al. 2022, and the code that came with it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class TimestampRules(NamedTuple):
    """`begin` is the token of 0 s, from which on all tokens are times; those before `end_of_text` are text.

    The first timestamp is at most `max_initial` tokens after `begin`.
    """

    begin: int
    end_of_text: int
    max_initial: int = 50

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
        """Bans, in place, the tokens that may not follow `output`: `logits` are float32 [vocabulary]."""
        times = [token for token in output if token >= self.begin]
        is_time = bool(output) and output[-1] >= self.begin
        was_time = len(output) < 2 or output[-2] >= self.begin
        if not output:
            logits[: self.begin] = -np.inf
            logits[self.begin + self.max_initial + 1 :] = -np.inf
        elif is_time and was_time:  # a segment begins: with text
            logits[self.begin :] = -np.inf
        elif is_time:  # a segment has ended: the next begins, or the text ends
            logits[: self.end_of_text] = -np.inf
        if times:  # time goes on; only where the next segment begins it may be the same
            first = times[-1] + (not is_time or was_time)
            logits[self.begin : first] = -np.inf
        self._prefer_times(logits)

    def _prefer_times(self, logits: Logits) -> None:
        """Bans text if a timestamp, whichever it is, is likelier than any single token of text."""
        times = logits[self.begin :].astype(np.float64)
        peak = times.max(initial=-np.inf)
        if peak > -np.inf and peak + np.log(np.exp(times - peak).sum()) > logits[: self.begin].max():
            logits[: self.begin] = -np.inf
