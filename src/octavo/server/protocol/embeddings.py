"""POST /v1/embeddings: the request, and what it is answered with."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field

from octavo.pooling_params import PoolingParams
from octavo.server.protocol.common import MAX_INT, NOT_YET, UNUSED, Name, Neutral, RequestModel, TokenIds

Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
ManyTokenIds = Annotated[list[Annotated[TokenIds, Field(min_length=1)]], Field(min_length=1, fail_fast=True)]


class EmbeddingRequest(RequestModel):
    """Texts to make vectors of: OpenAI's fields, and vLLM's on top of them."""

    input: str | Texts | Annotated[TokenIds, Field(min_length=1)] | ManyTokenIds
    model: Name | None = Field(None, description="may be left out where one model embeds")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="numbers, the default, or base64 of little-endian float32"
    )
    dimensions: Annotated[int, Field(ge=1, le=MAX_INT)] | None = Field(
        None, description="so many of the first, of models that were trained for that"
    )
    user: Name | None = Field(None, description=UNUSED)
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(
        None, description="cut texts to so many tokens; -1: to what the model can read"
    )
    normalize: bool | None = Field(None, description="make vectors as long as 1; left out: as the model says")
    use_activation: bool | None = Field(None, description="vLLM's newer name of normalize")
    prompt_name: Name | None = Field(None, description="which of the model's prompts is put before a text")
    priority: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)] | None = None
    request_id: Name | None = Field(None, description="the last part of the answer's id")
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        "messages": ((None,), NOT_YET),
        "embed_dtype": ((None, "float32"), NOT_YET),
        "endianness": ((None, "little", "native"), NOT_YET),
        "truncation_side": ((None, "right"), NOT_YET),
    }

    @property
    def items(self) -> list[str | list[int]]:
        """One entry for each text."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)

    def params(self) -> PoolingParams:
        """The engine's parameters. Raises ParameterError."""
        cut = self.truncate_prompt_tokens
        return PoolingParams("embed", self.dimensions, self.normalize, self.use_activation, cut)

    def written(self, vector: np.ndarray[Any, np.dtype[np.float32]]) -> list[float] | str:
        if self.encoding_format == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        numbers: list[float] = vector.tolist()
        return numbers


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="a string with encoding_format=base64")


class EmbeddingList(BaseModel):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
