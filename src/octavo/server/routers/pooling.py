"""POST /pooling."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.body import read_body
from octavo.server.pooling import run_texts
from octavo.server.protocol.pooling import PoolingList, PoolingRequest
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import list_answer

router = APIRouter(tags=["embeddings"])
# What a model must be able to do for a task of /pooling.
SKILLS = {"embed": "embed", "token_embed": "embed", "classify": "classify", "token_classify": "classify"}


@router.post("/pooling", **endpoint(PoolingRequest, PoolingList))
async def pool(request: Request) -> Response:
    """Makes numbers of each text, in their order: a vector, or a row for each token, as the task says."""
    body = await read_body(request, PoolingRequest, state_of(request).config)
    ran = await run_texts(request, body, SKILLS.get(body.task or "", "pool"), "pool")
    arrays = [output.details.data for output in ran.outputs]
    entries = ({"object": "pooling", "index": i, "data": body.written(array)} for i, array in enumerate(arrays))
    return await list_answer({**ran.head, "usage": ran.usage}, "data", entries, sum(array.size for array in arrays))
