"""POST /score and /rerank: pairs of texts, by the names of vLLM, Jina and Cohere, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from octavo.server.errors import HttpError
from octavo.server.protocol.common import MAX_INT, NOT_YET, Neutral, RequestModel
from octavo.server.protocol.pooling import REFUSED_BY_ALL, PoolingAnswer, PoolingFields


class Document(RequestModel):
    """A text, as an object."""

    text: str


Text = str | Document
Some = Annotated[list[Text], Field(min_length=1, fail_fast=True)]
PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))


class ScoreRequest(PoolingFields):
    """Texts, and others that they are compared with: one with each, or as many with as many."""

    text_1: Text | Some | None = Field(None, description="a text, or as many as there are in text_2")
    text_2: Text | Some | None = None
    queries: Text | Some | None = Field(None, description="what text_1 is, for documents or items")
    documents: Text | Some | None = None
    items: Text | Some | None = None
    data_1: Text | Some | None = Field(None, description="what text_1 is, for data_2")
    data_2: Text | Some | None = None

    @property
    def names(self) -> tuple[str, str]:
        """The two fields that have the texts. Raises HttpError where others, or not two of a pair, were given."""
        given = {name for pair in PAIRS for name in pair if getattr(self, name) is not None}
        for pair in PAIRS:
            if given == set(pair):
                return pair
        pair = next((pair for pair in PAIRS if given & set(pair)), PAIRS[0])
        if missing := [name for name in pair if name not in given]:
            raise HttpError(f"{missing[0]}: this field is required", missing[0], code="missing_field")
        other = min(given - set(pair))
        raise HttpError(f"{other}: not beside {pair[0]} and {pair[1]}", other, code="invalid_value")

    def texts(self, name: str) -> list[str]:
        return plain(getattr(self, name))


Longest = Annotated[int, Field(ge=0, le=MAX_INT)] | None


class RerankRequest(PoolingFields):
    """Documents to sort by how well they answer a query: Jina's fields, and Cohere's."""

    query: Text
    documents: Some
    top_n: Annotated[int, Field(ge=0, le=MAX_INT)] | None = Field(None, description="only so many of the best; 0: all")
    max_tokens_per_query: Longest = Field(None, description="the query is cut to so many tokens; 0: not")
    max_tokens_per_doc: Longest = Field(None, description="documents are cut to so many tokens; 0: not")
    return_documents: bool | None = Field(None, description="texts with the scores; left out: but for /v2/rerank")
    REFUSED: ClassVar[Mapping[str, Neutral]] = {
        **REFUSED_BY_ALL,
        "rank_fields": ((None, [], ["text"]), "is not supported: a document is its text"),
        "max_chunks_per_doc": ((None, 1), NOT_YET),
    }


def plain(value: Text | list[Text]) -> list[str]:
    """The texts themselves."""
    given = value if isinstance(value, list) else [value]
    return [one if isinstance(one, str) else one.text for one in given]


class Score(BaseModel):
    object: Literal["score"]
    index: int
    score: float


class ScoreList(PoolingAnswer):
    data: list[Score]


class RankedDocument(BaseModel):
    text: str


class Ranked(BaseModel):
    index: int = Field(description="the document's place among those given")
    relevance_score: float
    document: RankedDocument | None = None


class ApiVersion(BaseModel):
    version: str


class BilledUnits(BaseModel):
    search_units: int


class Tokens(BaseModel):
    input_tokens: int
    output_tokens: int


class RerankMeta(BaseModel):
    """What Cohere's clients read."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens


class RerankList(PoolingAnswer):
    results: list[Ranked] = Field(description="the best first")
    meta: RerankMeta
