"""POST /v1/completions: the request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar

from pydantic import Field

from octavo.engine.loading import LoadedModel
from octavo.sampling_params import SamplingParams
from octavo.server.errors import HttpError
from octavo.server.protocol.common import MAX_INT, REFUSED_BY_BOTH, Neutral, SamplingFields, TokenIds
from octavo.text.fill_in_the_middle import Form, end_ids, form_of

DEFAULT_MAX_TOKENS = 16
Prompts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
ManyTokenIds = Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]


class CompletionRequest(SamplingFields):
    """Text to continue."""

    prompt: str | Prompts | Annotated[TokenIds, Field(min_length=1)] | ManyTokenIds
    echo: bool | None = Field(None, description="put the prompt before its completion")
    logprobs: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(None, description="-1: of all tokens")
    add_special_tokens: bool | None = None
    PROMPTS = "prompt"
    suffix: str | None = Field(None, description="what follows the text that is asked for")
    REFUSED: ClassVar[Mapping[str, Neutral]] = REFUSED_BY_BOTH

    def check(self) -> None:
        super().check()
        for name in ("suffix", "truncate_prompt_tokens"):
            if getattr(self, name) and self.echo:
                raise HttpError(f"{name}: not together with echo=true", name, code="invalid_value")
        if self.suffix and self.truncate_prompt_tokens:
            reason = "truncate_prompt_tokens: not together with suffix; shorten the prompt"
            raise HttpError(reason, "truncate_prompt_tokens", code="invalid_value")
        if self.max_tokens == 0 and not self.echo:
            raise HttpError("max_tokens: 0 only with echo=true", "max_tokens", code="invalid_value")

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def infill(self, model: LoadedModel) -> Form | None:
        """How to ask the model for what precedes the suffix, if there is one. Raises HttpError if it can't."""
        if not self.suffix:
            return None
        if (form := form_of(model.tokenizer)) is None:
            name = PurePath(model.name).name
            reason = f"suffix: the model {name} has no tokens for a text between two others; leave suffix out"
            raise HttpError(reason, "suffix", code="unsupported_parameter")
        return form

    def params(self, model: LoadedModel) -> SamplingParams:
        more: dict[str, Any] = {}
        if self.max_tokens is not None:
            more["max_tokens"] = max(1, self.max_tokens)  # of none, the one token is made and not shown
        if self.logprobs is not None:
            more["logprobs"] = self.logprobs
            if self.echo:
                asked = (self.logprobs, self.prompt_logprobs or 0)
                more["prompt_logprobs"] = -1 if -1 in asked else max(asked)
        if (form := self.infill(model)) is not None:
            more["stop_token_ids"] = [*(self.stop_token_ids or ()), *end_ids(form, model.tokenizer)]
        return self.make_params(model, DEFAULT_MAX_TOKENS, more)
