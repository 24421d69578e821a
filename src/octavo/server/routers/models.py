"""GET /v1/models and /v1/models/{id}; ids may have slashes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from octavo.server.errors import body_of
from octavo.server.models import SKILLS, ServedModel
from octavo.server.protocol.answers import ModelCard, ModelList
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["models"])


@router.get("/v1/models", **endpoint(None, ModelList))
async def list_models(request: Request) -> JSONAnswer:
    """The models that are served, loaded or not."""
    server = state_of(request)
    await server.control.refresh()
    return JSONAnswer({"object": "list", "data": [model_card(model) for model in server.models]})


@router.get("/v1/models/{model_id:path}", **endpoint(None, ModelCard))
async def get_model(request: Request, model_id: str) -> JSONAnswer:
    """One model, by any of its names."""
    return JSONAnswer(model_card(await state_of(request).control.find(model_id)))


def model_card(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "octavo",
        "root": model.implied_names[0] if model.implied_names else model.id,
        "parent": None,
        "max_model_len": model.max_model_len,
        "status": model.status.value,
        "phase": model.phase,
        "pinned": model.pinned,
        "skills": None if model.skills is None else [skill for skill in SKILLS if skill in model.skills],
        "ttl": model.ttl,
        "last_used": None if model.last_used is None else int(model.last_used),
        "memory": model.held,
        "error": None if model.state.failure is None else body_of(model.state.failure)["error"]["message"],
        "aliases": list(model.names[1:]),
        "tags": list(model.tags),
        "permission": [],
    }
