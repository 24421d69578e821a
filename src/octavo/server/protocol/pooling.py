"""Requests about whole texts, which generate nothing: what they have in common, POST /pooling, and POST /classify."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field

from octavo.pooling_params import PoolingParams
from octavo.server.protocol.common import MAX_INT, NOT_YET, UNUSED, Name, Neutral, RequestModel, TokenIds

Array = np.ndarray[Any, np.dtype[np.float32]]
Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
ManyTokenIds = Annotated[list[Annotated[TokenIds, Field(min_length=1)]], Field(min_length=1, fail_fast=True)]
REFUSED_BY_ALL: dict[str, Neutral] = {
    "truncation_side": ((None, "right"), NOT_YET),
    "padding": ((None, "do_not_pad"), "is not supported: nothing is padded"),
    "cache_salt": ((None,), NOT_YET),
    "mm_processor_kwargs": ((None, {}), "is not supported: inputs are texts"),
}


class PoolingFields(RequestModel):
    """What all of them take: vLLM's fields."""

    model: Name | None = Field(None, description="may be left out where one model can do it")
    user: Name | None = Field(None, description=UNUSED)
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(
        None, description="cut texts to so many tokens; -1: to what the model can read"
    )
    use_activation: bool | None = Field(
        None,
        description="vectors as long as 1, probabilities instead of logits; left out: as the model says",
    )
    priority: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)] | None = None
    request_id: Name | None = Field(None, description="the last part of the answer's id")
    REFUSED: ClassVar[Mapping[str, Neutral]] = REFUSED_BY_ALL

    def params(self) -> PoolingParams:
        """The engine's parameters. Raises ParameterError."""
        return PoolingParams(use_activation=self.use_activation, truncate_prompt_tokens=self.truncate_prompt_tokens)


class InputRequest(PoolingFields):
    """Texts, or their token ids, in `input`."""

    input: str | Texts | Annotated[TokenIds, Field(min_length=1)] | ManyTokenIds
    add_special_tokens: bool | None = None
    REFUSED: ClassVar[Mapping[str, Neutral]] = {**REFUSED_BY_ALL, "messages": ((None,), NOT_YET)}

    @property
    def items(self) -> list[str | list[int]]:
        """One entry for each text."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)


class ArrayRequest(InputRequest):
    """What is answered with numbers."""

    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="numbers, the default, or base64 of little-endian float32"
    )
    dimensions: Annotated[int, Field(ge=1, le=MAX_INT)] | None = Field(
        None, description="so many of the first, of models that were trained for that"
    )
    normalize: bool | None = Field(None, description="an older name of use_activation")
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **InputRequest.REFUSED,
        "embed_dtype": ((None, "float32"), NOT_YET),
        "endianness": ((None, "little", "native"), NOT_YET),
    }

    @property
    def asked_task(self) -> str | None:
        return "embed"

    def params(self) -> PoolingParams:
        rest = self.dimensions, self.normalize, self.use_activation, self.truncate_prompt_tokens
        return PoolingParams(self.asked_task, *rest)

    def written(self, array: Array) -> Any:
        """Lists of numbers, or base64 of all of them, row by row."""
        if self.encoding_format == "base64":
            return base64.b64encode(array.astype("<f4").tobytes()).decode()
        return array.tolist()


class PoolingRequest(ArrayRequest):
    """Texts of which a model makes numbers: vectors, one for each text or each token, or those of its classes."""

    task: Name | None = Field(None, description="embed, token_embed, classify, …; left out: what the model does")

    @property
    def asked_task(self) -> str | None:
        return self.task


class ClassifyRequest(InputRequest):
    """Texts to find the classes of."""

    def params(self) -> PoolingParams:
        return replace(super().params(), task="classify")


class PoolingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class PoolingAnswer(BaseModel):
    """What answers begin with."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    usage: PoolingUsage


class Pooled(BaseModel):
    object: Literal["pooling"]
    index: int
    data: list[float] | list[list[float]] | str = Field(description="a string with encoding_format=base64")


class PoolingList(PoolingAnswer):
    data: list[Pooled]


class Classified(BaseModel):
    index: int
    label: str | None = Field(description="the likeliest class, as config.json calls it")
    probs: list[float]
    num_classes: int


class ClassifyList(PoolingAnswer):
    data: list[Classified]
