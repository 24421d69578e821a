"""POST /v1/completions: the request, and the JSON of log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from octavo.engine.loading import LoadedModel
from octavo.request import LogprobsAtPosition
from octavo.sampling_params import SamplingParams
from octavo.server.errors import HttpError
from octavo.server.protocol.common import MAX_INT, REFUSED_BY_BOTH, Neutral, SamplingFields, TokenIds

DEFAULT_MAX_TOKENS = 16
Prompts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
ManyTokenIds = Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]


class CompletionRequest(SamplingFields):
    """Text to continue."""

    prompt: str | Prompts | Annotated[TokenIds, Field(min_length=1)] | ManyTokenIds
    echo: bool | None = Field(None, description="put the prompt before its completion")
    logprobs: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
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
        if self.echo and self.stream and self.logprobs is not None:
            raise HttpError("echo: not together with logprobs and stream=true", "echo", code="unsupported_parameter")

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
                more["prompt_logprobs"] = max(self.logprobs, self.prompt_logprobs or 0)
        return self.make_params(model, DEFAULT_MAX_TOKENS, more)


class LogprobsWriter:
    """The lists of one choice's `logprobs`; `text_offset` counts characters over all of its chunks."""

    def __init__(self, top: int):
        self._top, self._offset = top, 0

    def write(self, positions: list[LogprobsAtPosition | None], first: str | None = None) -> dict[str, Any]:
        """The next tokens; a position without log-probabilities is a prompt's first token, whose text is `first`."""
        lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for position in positions:
            token, logprob, likeliest = first or "", None, None
            if position is not None:
                chosen = next(iter(position.values()))
                token, logprob = chosen.decoded_token or "", max(chosen.logprob, -9999.0)
                by_rank = sorted(position.values(), key=lambda entry: entry.rank or 0)
                shown = by_rank[: self._top] if chosen in by_rank[: self._top] else [chosen, *by_rank[: self._top]]
                likeliest = {entry.decoded_token: max(entry.logprob, -9999.0) for entry in shown}
            for name, value in zip(lists, (token, logprob, likeliest, self._offset), strict=True):
                lists[name].append(value)
            self._offset += len(token)
        return lists


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
