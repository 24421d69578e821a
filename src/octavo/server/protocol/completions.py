"""POST /v1/completions: the request, and the JSON of log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from octavo.engine.loading import LoadedModel
from octavo.request import LogprobsAtPosition
from octavo.sampling_params import SamplingParams
from octavo.server.errors import HttpError
from octavo.server.protocol.common import MAX_INT, REFUSED_BY_BOTH, Neutral, SamplingFields, TokenIds, shown_token
from octavo.text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16
Prompts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
ManyTokenIds = Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]


class CompletionRequest(SamplingFields):
    """Text to continue."""

    prompt: str | Prompts | Annotated[TokenIds, Field(min_length=1)] | ManyTokenIds
    echo: bool | None = Field(None, description="put the prompt before its completion")
    logprobs: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(None, description="-1: of all tokens")
    add_special_tokens: bool | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **REFUSED_BY_BOTH,
        "suffix": ((None, ""), "is not supported: text is continued, not filled in"),
    }

    def check(self) -> None:
        """What fields say together. Raises HttpError."""
        self.check_streaming()
        if self.max_tokens == 0 and not self.echo:
            raise HttpError("max_tokens: 0 only with echo=true", "max_tokens", code="invalid_value")

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry for each prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def params(self, model: LoadedModel) -> SamplingParams:
        more: dict[str, Any] = {}
        if self.max_tokens is not None:
            more["max_tokens"] = max(1, self.max_tokens)  # of none, the one token is made and not shown
        if self.logprobs is not None:
            more["logprobs"] = self.logprobs
            if self.echo:
                asked = (self.logprobs, self.prompt_logprobs or 0)
                more["prompt_logprobs"] = -1 if -1 in asked else max(asked)
        return self.make_params(model, DEFAULT_MAX_TOKENS, more)


class LogprobsWriter:
    """The lists of one choice's `logprobs`; `text_offset` counts characters over all of its chunks."""

    def __init__(self, tokenizer: Tokenizer, top: int, as_ids: bool):
        """`top` likeliest of each position are listed, and the chosen one; -1 is all of them."""
        self._tokenizer, self._top, self._as_ids, self._offset = tokenizer, top, as_ids, 0

    def write(self, tokens: list[int], positions: list[LogprobsAtPosition | None]) -> dict[str, Any]:
        """The next tokens; None is the position of a prompt's first token, which has no log-probabilities."""
        lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, position in zip(tokens, positions, strict=True):
            text, logprob, likeliest = self._tokenizer.token(token), None, None
            if position is not None:
                text, logprob = position[token].decoded_token or "", max(position[token].logprob, -9999.0)
                likeliest = self._likeliest(token, position)
            shown = shown_token(token, text, self._as_ids)
            for name, value in zip(lists, (shown, logprob, likeliest, self._offset), strict=True):
                lists[name].append(value)
            self._offset += len(text)
        return lists

    def _likeliest(self, chosen: int, position: LogprobsAtPosition) -> dict[str, float]:
        by_rank = sorted(position, key=lambda token: position[token].rank or 0)
        listed = by_rank if self._top == -1 else by_rank[: self._top]
        if chosen not in listed:
            listed = [chosen, *listed]
        return {
            shown_token(token, position[token].decoded_token, self._as_ids): max(position[token].logprob, -9999.0)
            for token in listed
        }


def prompt_logprobs_json(positions: list[LogprobsAtPosition | None] | None) -> list[dict[str, Any] | None] | None:
    """vLLM's `prompt_logprobs`: for each prompt token, entries by token id."""
    if positions is None:
        return None
    return [
        None
        if position is None
        else {
            str(token): {
                "logprob": max(entry.logprob, -9999.0),
                "rank": entry.rank,
                "decoded_token": entry.decoded_token,
            }
            for token, entry in position.items()
        }
        for position in positions
    ]
