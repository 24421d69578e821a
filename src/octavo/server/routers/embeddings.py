"""POST /v1/embeddings."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.body import read_body
from octavo.server.pooling import run_texts
from octavo.server.protocol.embeddings import EmbeddingList, EmbeddingRequest
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import list_answer

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings", **endpoint(EmbeddingRequest, EmbeddingList))
async def create_embeddings(request: Request) -> Response:
    """Makes a vector of each text, in their order."""
    body = await read_body(request, EmbeddingRequest, state_of(request).config)
    ran = await run_texts(request, body, "embed", "embd", body.prompt_name, body.input_type)
    vectors = [output.details.data for output in ran.outputs]
    entries = (
        {"object": "embedding", "index": i, "embedding": body.written(vector)} for i, vector in enumerate(vectors)
    )
    return await list_answer({**ran.head, "usage": ran.usage}, "data", entries, sum(vector.size for vector in vectors))
