"""What requests of several endpoints have in common, as pydantic models: sampling, streaming, and what is refused."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from octavo.engine.loading import LoadedModel
from octavo.request import check_length
from octavo.sampling_params import (
    MAX_BAD_WORDS,
    MAX_LENGTH_PENALTY,
    MAX_SEQUENCES,
    MAX_STOP_STRINGS,
    MAX_TEXT_LENGTH,
    RequestOutputKind,
    SamplingParams,
    known_extra_args,
)
from octavo.server.errors import HttpError
from octavo.server.protocol.structure import StructureFields

MAX_INT = 2**31 - 1
MAX_BIASES = 4096
MAX_NAME = 512  # the most characters of a name
Neutral = tuple[tuple[Any, ...], str]  # values that ask for nothing, and what is said about others
NOT_YET = "is not supported yet; leave it out"
UNUSED = "taken, and not used: nothing depends on it here"

TokenId = Annotated[int, Field(ge=0, le=MAX_INT)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
ShortText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH)]
Name = Annotated[str, Field(max_length=MAX_NAME)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def _check_bias(value: Any) -> Any:
    """Stops at the first bad entry, instead of telling of each."""
    if isinstance(value, dict):
        if len(value) > MAX_BIASES:
            raise ValueError(f"at most {MAX_BIASES} tokens")
        for token, bias in value.items():
            if not (token.isascii() and token.isdigit() and len(token) <= 10):
                raise ValueError(f"{token[:40]!r} is not a token id")
            if type(bias) not in (int, float) or not abs(bias) < math.inf:  # integers may be too large for a float
                raise ValueError(f"the bias of token {token} must be a number")
    return value


def _field_error(code: str, name: str, reason: str) -> PydanticCustomError:
    """An error about the field `name` of the object that is being read."""
    name = name[:80].encode(errors="replace").decode()
    return PydanticCustomError(code, "{name} {reason}", {"name": name, "reason": reason})


def tell_refused(schema: dict[str, Any], model: type[RequestModel]) -> None:
    """Adds fields that are known and refused to a schema: only neutral values are allowed."""
    for name, (neutral, reason) in model.REFUSED.items():
        allowed: dict[str, Any] = {"enum": list(neutral)} if neutral else {"not": {}}
        schema["properties"].setdefault(name, {**allowed, "description": f"{name} {reason}"})


class RequestModel(BaseModel):
    """JSON of a request: types are exact, and what is not known is refused.

    `REFUSED` has fields that are known but not supported, with their neutral values; those are let through.
    """

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=tell_refused)
    REFUSED: ClassVar[Mapping[str, Neutral]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        for name in [name for name in value if name not in known]:
            if name not in cls.REFUSED:
                raise _field_error("unknown_parameter", name, "is not known here; no field is ignored")
            neutral, reason = cls.REFUSED[name]
            if not any(value[name] == one and type(value[name]) is type(one) for one in neutral):
                raise _field_error("unsupported_parameter", name, reason)
            del value[name]
        return value


def kind_of(value: Any) -> str:
    """The tag of a member of a union by its `type`. In angle brackets it is no part of a field's path."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>"


class StreamOptions(RequestModel):
    include_usage: bool | None = Field(None, description="one last chunk with the usage of the request")
    continuous_usage_stats: bool | None = Field(None, description="the usage so far in every chunk")
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "include_obfuscation": ((None, False), "is not supported; leave it out or say false")
    }


class SamplingFields(StructureFields, RequestModel):
    """OpenAI's sampling parameters, and vLLM's on top of them. What is left out is the model's own default."""

    model: Name | None = Field(None, description="may be left out where one model is served")
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    stop: ShortText | Annotated[list[ShortText], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, Number], BeforeValidator(_check_bias)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = Field(None, description=UNUSED)
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = Field(None, description=UNUSED)
    best_of: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] | None = None
    use_beam_search: bool | None = None
    length_penalty: Annotated[float, Field(ge=-MAX_LENGTH_PENALTY, le=MAX_LENGTH_PENALTY)] | None = None
    early_stopping: bool | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    bad_words: Annotated[list[ShortText], Field(max_length=MAX_BAD_WORDS, fail_fast=True)] | None = None
    allowed_token_ids: TokenIds | None = None
    prompt_logprobs: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(
        None, description="keep so many of a prompt's last tokens; -1: as many as fit"
    )
    priority: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] | None = None
    request_id: Name | None = Field(None, description="the last part of the answer's id")
    vllm_xargs: dict[Name, Any] | None = Field(None, description="what rules on logits of plugins read, by their names")
    return_token_ids: bool | None = Field(None, description="token_ids of each choice, and prompt_token_ids")
    return_tokens_as_token_ids: bool | None = Field(None, description="log-probabilities name tokens token_id:ID")

    PROMPTS: ClassVar[str]  # the field that has them
    IS_CUT_BY_CONTEXT: ClassVar[bool] = False  # whether max_tokens may be more than there is room for

    @property
    @abstractmethod
    def prompts(self) -> Sequence[Any]:
        """One entry for each prompt."""

    @property
    def asked_tokens(self) -> int | None:
        return self.max_tokens

    def check(self) -> None:
        """What fields say together. Raises HttpError."""
        if self.stream_options is not None and not self.stream:
            raise HttpError("stream_options: only with stream=true", "stream_options", code="invalid_value")
        if self.use_beam_search and (structure := self.grammar()) is not None:
            name, _ = structure
            raise HttpError(f"{name}: not with use_beam_search=true", name, code="unsupported_parameter")
        whole_only = {
            "prompt_logprobs": self.prompt_logprobs is not None,
            "use_beam_search": self.use_beam_search,
            "best_of": self.best_of is not None and self.best_of > (self.n or 1),
        }
        for name, is_asked in whole_only.items():
            if self.stream and is_asked:
                raise HttpError(f"{name}: not with stream=true", name, code="unsupported_parameter")

    @abstractmethod
    def params(self, model: LoadedModel) -> SamplingParams:
        """The engine's parameters. Raises ParameterError or ConfigError."""

    def make_params(self, model: LoadedModel, max_tokens: int | None, more: Mapping[str, Any]) -> SamplingParams:
        """`max_tokens` is for requests that say none, where the model says none either."""
        for name in () if model.processors else (self.vllm_xargs or {}).keys() - known_extra_args:
            raise HttpError(f"vllm_xargs: no plugin reads {name!r}", "vllm_xargs", code="unsupported_parameter")
        same = {field.name for field in fields(SamplingParams)} - {"max_tokens", "logprobs"}
        given = {name: value for name, value in self if name in same and value is not None}
        if not self.stop:
            given.pop("stop", None)
        if self.vllm_xargs:
            given["extra_args"] = self.vllm_xargs
        if self.logit_bias is not None:
            given["logit_bias"] = {int(token): min(100.0, max(-100.0, bias)) for token, bias in self.logit_bias.items()}
        params = model.sampling_params({**given, **more}, {"max_tokens": max_tokens})
        params.output_kind = RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY
        return params


# Fields of chat and completions that are known, and what they may say.
REFUSED_BY_BOTH: dict[str, Neutral] = {
    **dict.fromkeys(
        (*("structural_tag", "logprob_token_ids", "repetition_detection"),),
        ((None,), NOT_YET),
    ),
    **dict.fromkeys(("watermarking", "return_token_offsets"), ((None, False), NOT_YET)),
    "thinking_token_budget": ((None, -1), NOT_YET),
    "stream_interval": ((None, 1), NOT_YET),
    "logits_processors": ((None, []), "is not supported"),
    "truncation_side": ((None, "left"), "may only be 'left': prompts lose their beginning"),
    "kv_transfer_params": ((None,), "is not supported"),
    "extra_body": ((None, {}), "is a parameter of the client library: put its fields into the body itself"),
    "store": ((None, False), "is not supported: nothing is stored"),
}


def check_room(num_prompt_tokens: int, max_tokens: int | None, max_model_len: int, room: int = 1) -> None:
    """Raises HttpError or PromptError if prompt and answer together are longer than the context.

    Answers are not cut short unasked; they have `room` at least.
    """
    check_length(num_prompt_tokens, max_model_len, room)
    if max_tokens is not None and num_prompt_tokens + max_tokens > max_model_len:
        raise HttpError(
            f"This model's maximum context length is {max_model_len} tokens. However, you requested "
            f"{num_prompt_tokens + max_tokens} tokens ({num_prompt_tokens} in the messages, {max_tokens} in the "
            f"completion). Please reduce the length of the messages or completion.",
            "max_tokens",
            code="context_length_exceeded",
        )
