"""The rules of timestamps in Whisper's output.

A text is made of segments, each between two timestamps, the end of one followed by the beginning of the next:
<|0.00|> Hello.<|1.40|><|2.00|> Is anybody there?<|3.10|>. (Radford et al. 2022, and the code that came with it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from octavo.sampling.rules.base import Batch, Logits, Rule, Stage


@dataclass(frozen=True)
class Timestamps(Rule, name="timestamps", stage=Stage.COMPARISON):
    """`begin` is the token of 0 s, from which on all tokens are times; those before `end_of_text` are text.

    The first timestamp is at most `max_initial` tokens after `begin`.
    """

    begin: int
    end_of_text: int
    max_initial: int = 50

    def apply(self, logits: Logits, output: Sequence[int]) -> None:
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

    @staticmethod
    def apply_batch(rules: Sequence[Timestamps], batch: Batch) -> None:
        import torch

        numbers = batch.integers([[rule.begin, rule.end_of_text, rule.max_initial] for rule in rules])
        begin, end_of_text, max_initial = numbers.t()[:, :, None]
        table_rows, num_prompt, num_tokens = batch.device_sequences[:, :, None]
        tokens = batch.history[table_rows[:, 0], : max(length for _, _, length in batch.sequences)].long()
        position = torch.arange(tokens.shape[1], device=tokens.device)
        is_output = (position >= num_prompt) & (position < num_tokens)
        times = torch.where(is_output & (tokens >= begin), tokens, -1)
        count = num_tokens - num_prompt
        last_two = (num_tokens - torch.arange(1, 3, device=tokens.device)).clamp(min=0)
        was_time = times.gather(1, last_two) >= 0
        last, before = (count > 0) & was_time[:, :1], (count < 2) | was_time[:, 1:]
        token = torch.arange(batch.logits.shape[1], device=tokens.device)
        is_text, latest = token < begin, times.amax(1, keepdim=True)  # time goes on: the latest is the largest
        banned = (count == 0) & (is_text | (token > begin + max_initial))
        banned |= last & torch.where(before, ~is_text, token < end_of_text)
        banned |= (latest >= 0) & ~is_text & (token < latest + (~last | before).long())
        found = batch.logits[batch.device_rows].masked_fill(banned, -torch.inf)
        mass = found.masked_fill(is_text, -torch.inf).double().logsumexp(1, keepdim=True)
        text = found.masked_fill(~is_text, -torch.inf).amax(1, keepdim=True)
        batch.logits[batch.device_rows] = found.masked_fill(is_text & (mass > text), -torch.inf)
