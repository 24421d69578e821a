"""POST /v1/embeddings."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.engine.inputs import check_prompt
from octavo.engine.pooling import NOTHING_SAMPLED, pooled, pooler_of
from octavo.errors import ParameterError, PromptError
from octavo.pooling_params import PoolingParams
from octavo.request import Prompt
from octavo.server.answering import answer_head
from octavo.server.body import read_body
from octavo.server.generation import Generation, admit
from octavo.server.models import ServedModel
from octavo.server.protocol.embeddings import EmbeddingList, EmbeddingRequest
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings", **endpoint(EmbeddingRequest, EmbeddingList))
async def create_embeddings(request: Request) -> Response:
    """Makes a vector of each text, in their order."""
    server = state_of(request)
    body = await read_body(request, EmbeddingRequest, server.config)
    model = server.models.find(body.model, "embed")
    items = body.items
    if len(items) > (most := server.config.max_prompts):
        raise ParameterError("input", len(items), f"at most {most} texts (--max-prompts)")
    admit(server, model, request, len(items))
    params = body.params()
    prompts = await _read(model, body, items, params)
    generation = Generation(server, model, request, prompts, NOTHING_SAMPLED, None, body.priority)
    async with generation:
        outputs = await generation.finished()
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": i, "embedding": body.written(output.details.data)}
        for i, output in enumerate(outputs)
    ]
    count = generation.num_prompt_tokens
    head = answer_head("embd", "list", request, body.request_id, body.model or model.id)
    return JSONAnswer({**head, "data": data, "usage": {"prompt_tokens": count, "total_tokens": count}})


async def _read(
    model: ServedModel, body: EmbeddingRequest, items: list[str | list[int]], params: PoolingParams
) -> list[Prompt]:
    """The prompts. Raises PromptError, which names the text that is wrong, or ParameterError."""
    loaded = model.engine.model
    pooler = pooler_of(loaded)
    pooler.check(params)
    texts = [pooler.prompted(item, body.prompt_name) for item in items]
    if isinstance(texts[0], str):
        is_cut = params.truncate_prompt_tokens is not None
        read = await model.read_texts(texts, body.add_special_tokens is not False, is_cut)
    else:
        read = [model.read_ids(ids) for ids in texts]
    prompts = []
    for i, prompt in enumerate(read):
        try:
            prompts.append(pooled(prompt, params, loaded))
            check_prompt(prompts[i].token_ids, loaded.vocab_size, loaded.max_model_len, room=0)
        except PromptError as error:
            if len(read) > 1:
                error.args = (f"input[{i}]: {error}",)
            raise
    return prompts
