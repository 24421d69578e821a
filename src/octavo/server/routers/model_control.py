"""POST /v1/models/{id}/load, /unload, /sleep, /wake and /reload; vLLM's /sleep, /wake_up and /is_sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request

from octavo.server.admission import asked_timeout
from octavo.server.body import announced_bytes, read_body
from octavo.server.errors import HttpError
from octavo.server.model_state import Status
from octavo.server.models import ServedModel
from octavo.server.protocol.answers import ErrorAnswer, ModelCard
from octavo.server.protocol.common import RequestModel
from octavo.server.protocol.model_control import (
    Done,
    LoadRequest,
    ReloadRequest,
    Sleeping,
    SleepQuery,
    SleepRequest,
    UnloadRequest,
    WakeRequest,
)
from octavo.server.query import read_query
from octavo.server.routers.models import model_card
from octavo.server.schema import endpoint
from octavo.server.state import ServerState, state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["models"])
Form = TypeVar("Form", bound=RequestModel)


def _endpoint(body: type[RequestModel] | None, answer: Any, **more: Any) -> dict[str, Any]:
    arguments = endpoint(body, answer, **more)
    if body is not None:
        arguments["openapi_extra"]["requestBody"]["required"] = False
    refused = {"model": ErrorAnswer, "description": "the server runs with --no-model-control"}
    arguments["responses"][403] = refused
    arguments["responses"][202] = {"model": answer, "description": "it has begun"}
    arguments["responses"][415] = {**refused, "description": "the body has another Content-Type"}
    return arguments


@router.post("/v1/models/{model_id:path}/load", **_endpoint(LoadRequest, ModelCard))
async def load_model(request: Request, model_id: str) -> JSONAnswer:
    """Loads a model, unless it is loaded."""
    server, asked = await _read(request, LoadRequest)
    model = await server.control.find(model_id)
    model.check_started()
    model.state.retry_at = 0.0  # who asks for it may have mended it
    if asked.wait:
        return await _answer(server, model, server.control.bring(model, _seconds(request)))
    server.control.begin(server.control.bring(model, _seconds(request)))
    await asyncio.sleep(0)  # it has begun
    return JSONAnswer(model_card(model), 202)


@router.post("/v1/models/{model_id:path}/unload", **_endpoint(UnloadRequest, ModelCard))
async def unload_model(request: Request, model_id: str) -> JSONAnswer:
    """Unloads a model: its memory is free when this is answered."""
    server, asked = await _read(request, UnloadRequest)
    model = await server.control.find(model_id)
    return await _answer(server, model, server.control.unload(model, asked.force))


@router.post("/v1/models/{model_id:path}/sleep", **_endpoint(SleepRequest, ModelCard))
async def sleep_model(request: Request, model_id: str) -> JSONAnswer:
    """Puts a model to sleep."""
    server, asked = await _read(request, SleepRequest)
    model = await server.control.find(model_id)
    return await _answer(server, model, server.control.sleep(model, asked.level))


@router.post("/v1/models/{model_id:path}/wake", **_endpoint(WakeRequest, ModelCard))
async def wake_model(request: Request, model_id: str) -> JSONAnswer:
    """Wakes a model; one that is unloaded is loaded."""
    server, _ = await _read(request, WakeRequest)
    model = await server.control.find(model_id)
    return await _answer(server, model, server.control.bring(model, _seconds(request)))


@router.post("/v1/models/{model_id:path}/reload", **_endpoint(ReloadRequest, ModelCard))
async def reload_model(request: Request, model_id: str) -> JSONAnswer:
    """Loads a model's files anew, while the old ones answer."""
    server, _ = await _read(request, ReloadRequest)
    model = await server.control.find(model_id)
    return await _answer(server, model, server.control.reload(model))


@router.post("/sleep", **_endpoint(None, Done, query=SleepQuery))
async def sleep(request: Request) -> JSONAnswer:
    """Puts all models to sleep that are loaded, as in vLLM."""
    server = _controlled(request)
    level = int(read_query(request, SleepQuery).level)
    for model in [each for each in server.models if each.instance is not None]:
        await asyncio.shield(server.control.begin(server.control.sleep(model, level)))
    return JSONAnswer({"status": "ok"})


@router.post("/wake_up", **_endpoint(None, Done, query=WakeRequest))
async def wake_up(request: Request) -> JSONAnswer:
    """Wakes all models that sleep, as in vLLM."""
    server = _controlled(request)
    read_query(request, WakeRequest)
    for model in [each for each in server.models if each.status is Status.SLEEPING]:
        await asyncio.shield(server.control.begin(server.control.bring(model, _seconds(request))))
    return JSONAnswer({"status": "ok"})


@router.get("/is_sleeping", **_endpoint(None, Sleeping))
async def is_sleeping(request: Request) -> JSONAnswer:
    """Whether all models sleep that are not unloaded, as in vLLM."""
    statuses = {model.status for model in state_of(request).models} - {Status.UNLOADED, Status.FAILED}
    return JSONAnswer({"is_sleeping": statuses == {Status.SLEEPING}})


async def _answer(server: ServerState, model: ServedModel, work: Coroutine[Any, Any, None]) -> JSONAnswer:
    """The model's card after work that goes on if the client leaves."""
    await asyncio.shield(server.control.begin(work))
    return JSONAnswer(model_card(model))


def _seconds(request: Request) -> float:
    """How long a request may wait for a model. Raises HttpError for a header that is no number."""
    return min(state_of(request).config.request_timeout, asked_timeout(request))


def _controlled(request: Request) -> ServerState:
    """Raises HttpError where requests may not do this, or a page asks for it behind its user's back."""
    server = state_of(request)
    if not server.config.model_control:
        reason = "models are not loaded or unloaded by requests here: the server runs with --no-model-control"
        raise HttpError(reason, status=403, code="model_control_off")
    if "origin" in request.headers and not request.headers.get("content-type", "").startswith("application/json"):
        raise HttpError("pages must send 'Content-Type: application/json'", status=415, code="media_type")
    return server


async def _read(request: Request, form: type[Form]) -> tuple[ServerState, Form]:
    """The server, and a body that may be left out."""
    server = _controlled(request)
    server.check_open()
    if not announced_bytes(request) and "transfer-encoding" not in request.headers:
        return server, form()
    return server, await read_body(request, form, server.config)
