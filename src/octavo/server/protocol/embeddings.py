"""POST /v1/embeddings: the request, and what it is answered with."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from octavo.server.protocol.common import Name
from octavo.server.protocol.pooling import ArrayRequest, PoolingAnswer

InputType = Literal["search_query", "search_document", "query", "document", "passage", "classification", "clustering"]


class EmbeddingRequest(ArrayRequest):
    """Texts to make vectors of: OpenAI's fields, and vLLM's on top of them."""

    prompt_name: Name | None = Field(None, description="which of the model's prompts is put before a text")
    input_type: InputType | None = Field(None, description="what texts are: its prompt is put before them, if there is")


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="a string with encoding_format=base64")


class EmbeddingList(PoolingAnswer):
    data: list[Embedding]
