"""POST /score and /rerank, under vLLM's, Jina's and Cohere's paths."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.server.body import read_body
from octavo.server.pooling import run_pairs
from octavo.server.protocol.scoring import RerankList, RerankRequest, ScoreList, ScoreRequest, plain
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["embeddings"])
COHERE = "/v2/rerank"


@router.post("/score", **endpoint(ScoreRequest, ScoreList))
@router.post("/v1/score", **endpoint(ScoreRequest, ScoreList))
async def score(request: Request) -> Response:
    """How well pairs of texts go together: one text with each of several, or as many with as many."""
    body = await read_body(request, ScoreRequest, state_of(request).config)
    texts = {name: body.texts(name) for name in body.names}
    ran, scores = await run_pairs(request, body, "score", texts, is_search=False)
    data = [{"object": "score", "index": i, "score": score} for i, score in enumerate(scores)]
    return JSONAnswer({**ran.head, "data": data, "usage": ran.usage})


@router.post("/rerank", **endpoint(RerankRequest, RerankList))
@router.post("/v1/rerank", **endpoint(RerankRequest, RerankList))
@router.post(COHERE, **endpoint(RerankRequest, RerankList))
async def rerank(request: Request) -> Response:
    """Sorts documents by how well they answer a query."""
    body = await read_body(request, RerankRequest, state_of(request).config)
    is_cohere = request.url.path.endswith(COHERE)
    texts = {"query": plain(body.query), "documents": plain(body.documents)}
    longest = body.max_tokens_per_query or None, body.max_tokens_per_doc or None
    ran, scores = await run_pairs(request, body, "rerank", texts, True, longest)
    shows = not is_cohere if body.return_documents is None else body.return_documents
    results: list[dict[str, Any]] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i])[: body.top_n or None]:
        document = {"document": {"text": texts["documents"][i]}} if shows else {}
        results.append({"index": i, "relevance_score": scores[i], **document})
    meta = {
        "api_version": {"version": "2" if is_cohere else "1"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": ran.num_tokens, "output_tokens": 0},
    }
    return JSONAnswer({**ran.head, "results": results, "meta": meta, "usage": ran.usage})
