"""POST /pooling and /classify."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.body import read_body
from octavo.server.pooling import run_texts
from octavo.server.protocol.pooling import ClassifyList, ClassifyRequest, PoolingList, PoolingRequest
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer, list_answer

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


@router.post("/classify", **endpoint(ClassifyRequest, ClassifyList))
async def classify(request: Request) -> Response:
    """The probabilities of each text's classes, in their order."""
    body = await read_body(request, ClassifyRequest, state_of(request).config)
    ran = await run_texts(request, body, "classify", "classify")
    labels = ran.labels
    data = [
        {"index": i, "label": labels[int(probs.argmax())], "probs": probs.tolist(), "num_classes": len(probs)}
        for i, probs in enumerate(output.details.data for output in ran.outputs)
    ]
    return JSONAnswer({**ran.head, "data": data, "usage": ran.usage})
