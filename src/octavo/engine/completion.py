"""What one sequence shows to its user: text as it becomes final, log-probabilities, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo.request import CompletionOutput, LogprobsAtPosition
from octavo.sampling_params import SamplingParams
from octavo.text.detokenizer import IncrementalDetokenizer
from octavo.text.stop import StopStrings
from octavo.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class StopRules:
    """Token ids that end a text, and whether their text is shown."""

    eos_token_id: int | None
    stop_token_ids: frozenset[int]

    @classmethod
    def of(cls, params: SamplingParams, eos_token_ids: tuple[int, ...]) -> StopRules:
        ends = () if params.ignore_eos else eos_token_ids
        first = ends[0] if ends else None
        return cls(first, frozenset([*ends[1:], *(params.stop_token_ids or ())]) - {first})

    @property
    def all(self) -> frozenset[int]:
        return self.stop_token_ids if self.eos_token_id is None else self.stop_token_ids | {self.eos_token_id}


class Completion:
    """Follows one sequence from its first token to its end."""

    def __init__(
        self,
        index: int,
        params: SamplingParams,
        rules: StopRules,
        tokenizer: Tokenizer,
        prompt_token_ids: list[int],
        max_tokens: int,
    ):
        self.index, self._params, self._rules = index, params, rules
        self.max_tokens = max_tokens
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[LogprobsAtPosition] | None = None if params.logprobs is None else []
        self.cumulative_logprob = 0.0
        self.shows_logprob = params.logprobs is not None
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self._shown_text = self._shown_tokens = 0
        self._stops = StopStrings(params.stop or (), params.include_stop_str_in_output) if params.stop else None
        self._detokenizer = None
        if params.detokenize:
            self._detokenizer = IncrementalDetokenizer(
                tokenizer, prompt_token_ids, params.skip_special_tokens, params.spaces_between_special_tokens
            )

    def append(self, token: int) -> None:
        """Takes the next token, and decides whether the text ends with it."""
        enough, ends = len(self.token_ids) >= self._params.min_tokens, self.ends_with(token)
        self.token_ids.append(token)
        if ends:
            self._end("stop", None if token == self._rules.eos_token_id else token, token)
        else:
            self._show(token, enough)
            if self.finish_reason is None and len(self.token_ids) >= self.max_tokens:
                self._end("length", None)

    def ends_with(self, token: int) -> bool:
        """Whether the text would end with this token, if it came next."""
        return len(self.token_ids) >= self._params.min_tokens and token in self._rules.all

    def stop(self, reason: str) -> None:
        """Ends it from outside: "abort" or "error"; "stop" where nothing more may come."""
        if self.finish_reason is None:
            self._end(reason, None)

    def output(self, delta: bool) -> CompletionOutput:
        """All so far, or what is new since the last call."""
        tokens_from, text_from = (self._shown_tokens, self._shown_text) if delta else (0, 0)
        self._shown_tokens, self._shown_text = len(self.token_ids), len(self.text)
        return CompletionOutput(
            index=self.index,
            text=self.text[text_from:],
            token_ids=self.token_ids[tokens_from:],
            cumulative_logprob=self.cumulative_logprob if self.shows_logprob else None,
            logprobs=None if self.logprobs is None else self.logprobs[tokens_from:],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def _show(self, token: int, may_stop: bool) -> None:
        if self._detokenizer is None:
            return
        new = self._detokenizer.append(token)
        if new:
            self._add_text(new, may_stop)

    def _add_text(self, new: str, may_stop: bool) -> None:
        if self._stops is None or not may_stop:
            self.text += new
            return
        final, matched = self._stops.append(new)
        self.text += final
        if matched is not None:
            self.finish_reason, self.stop_reason = "stop", matched

    def _end(self, reason: str, stop_reason: int | None, stop_token: int | None = None) -> None:
        if stop_token is not None and self._params.include_stop_str_in_output:
            self._show(stop_token, may_stop=False)
        if self._detokenizer is not None and self.finish_reason is None:
            self._add_text(self._detokenizer.flush(), may_stop=True)
        if self.finish_reason is not None:  # what was flushed completed a stop string
            return
        if self._stops is not None:
            self.text += self._stops.flush()
        self.finish_reason, self.stop_reason = reason, stop_reason


def num_tokens_of(
    num_characters: int,
    token_ids: Sequence[int],
    tokenizer: Tokenizer,
    prompt_token_ids: Sequence[int],
    params: SamplingParams,
) -> int:
    """How many of a completion's first tokens so many of its first characters came from."""
    detokenizer = IncrementalDetokenizer(
        tokenizer, prompt_token_ids, params.skip_special_tokens, params.spaces_between_special_tokens
    )
    count = 0
    while num_characters > 0 and count < len(token_ids):
        num_characters -= len(detokenizer.append(token_ids[count]))
        count += 1
    return count
