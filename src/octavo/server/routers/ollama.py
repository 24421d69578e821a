"""/api: Ollama's API. Answers are streams of lines unless `stream` is false."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from octavo.server.admission import use
from octavo.server.answering import begin, respond
from octavo.server.body import read_body, validated
from octavo.server.dialects import FieldNames
from octavo.server.items import as_chat
from octavo.server.models import ServedModel
from octavo.server.ollama import OllamaChatWriter, OllamaGenerateWriter, OllamaRawWriter, line
from octavo.server.pooling import Ran, run_texts
from octavo.server.protocol import ollama as forms
from octavo.server.protocol.common import RequestModel
from octavo.server.protocol.embeddings import EmbeddingRequest
from octavo.server.protocol.ollama import NAMES, OllamaErrorAnswer, OllamaFields, seconds_of
from octavo.server.schema import endpoint
from octavo.server.sse import LineStream
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer, dumps, list_answer
from octavo.version import __version__

router = APIRouter(prefix="/api", tags=["ollama"])
Json = dict[str, Any]
Form = TypeVar("Form", bound=RequestModel)
NEVER = "9999-12-31T23:59:59Z"  # when models are unloaded
LATEST = 253402300799.0  # that a date can be
ARCHITECTURE = "octavo"  # of all models, as Ollama's clients look for a model's context under it


def _endpoint(*args: Any, streams: bool = False) -> Json:
    lines = ("application/x-ndjson",) if streams else ()
    return endpoint(*args, texts=lines, error=OllamaErrorAnswer)


@router.post("/chat", **_endpoint(forms.OllamaChatRequest, forms.OllamaChatAnswer, streams=True))
async def chat(request: Request) -> Response:
    """Answers a conversation."""
    asked = await _read(request, forms.OllamaChatRequest)
    model = await _keep(request, asked.model, asked.keep_alive, "text")
    if not asked.messages:
        return await _loaded(request, model, asked, message={"role": "assistant", "content": ""})
    body = as_chat(request, *asked.chat(), NAMES)
    return await OllamaChatWriter(request, body, await begin(request, body, OllamaChatWriter), asked=asked).response()


@router.post("/generate", **_endpoint(forms.OllamaGenerateRequest, forms.OllamaGenerateAnswer, streams=True))
async def generate(request: Request) -> Response:
    """Answers a prompt, or continues a text."""
    asked = await _read(request, forms.OllamaGenerateRequest)
    model = await _keep(request, asked.model, asked.keep_alive, "text")
    if not asked.prompt and not asked.suffix:
        return await _loaded(request, model, asked, response="")
    if asked.is_raw:
        request.state.names = FieldNames(NAMES)
        fields = {name: value for name, value in asked.completion().items() if value is not None}
        return await respond(request, validated(fields, forms.OllamaCompletion), OllamaRawWriter)
    body = as_chat(request, *asked.chat(), NAMES)
    generation = await begin(request, body, OllamaGenerateWriter)
    return await OllamaGenerateWriter(request, body, generation, asked=asked).response()


@router.post("/embed", **_endpoint(forms.OllamaEmbedRequest, forms.OllamaVectors))
async def embed(request: Request) -> Response:
    """Makes a vector of each text, in their order."""
    began = time.monotonic()
    asked = await _read(request, forms.OllamaEmbedRequest)
    await _keep(request, asked.model, asked.keep_alive, "embed")
    vectors, ran = await _vectors(request, asked.fields())
    times = {"total_duration": round((time.monotonic() - began) * 1e9), "load_duration": 0}
    head = {"model": ran.head["model"], **times, "prompt_eval_count": ran.num_tokens}
    return await list_answer(head, "embeddings", vectors, sum(map(len, vectors)))


@router.post("/embeddings", **_endpoint(forms.OllamaEmbeddingsRequest, forms.OllamaVector))
async def embeddings(request: Request) -> Response:
    """Makes a vector of one text; /api/embed is newer."""
    asked = await _read(request, forms.OllamaEmbeddingsRequest)
    await _keep(request, asked.model, asked.keep_alive, "embed")
    fields = {"model": asked.model, "input": asked.prompt, "truncate_prompt_tokens": -1}
    vectors, _ = await _vectors(request, fields)
    return JSONAnswer({"embedding": vectors[0]})


@router.get("/tags", **_endpoint(None, forms.OllamaModels))
async def tags(request: Request) -> Response:
    """The models that are served, loaded or not."""
    server = state_of(request)
    await server.control.refresh()
    return JSONAnswer({"models": [_card(model) for model in server.models]})


@router.get("/ps", **_endpoint(None, forms.OllamaModels))
async def ps(request: Request) -> Response:
    """The models that are loaded."""
    return JSONAnswer({"models": [_running(model) for model in state_of(request).models if model.is_ready]})


@router.post("/show", **_endpoint(forms.OllamaNameRequest, forms.OllamaModel))
async def show(request: Request) -> Response:
    """What is known of a model; of one that is not loaded, what its headers say."""
    asked = await _read(request, forms.OllamaNameRequest)
    model = await state_of(request).control.find(asked.asked)
    model.check_started()
    loaded = None if model.llm is None else model.llm.model
    info = {"general.architecture": ARCHITECTURE, f"{ARCHITECTURE}.context_length": model.max_model_len}
    defaults = {} if loaded is None else loaded.sampling_defaults
    return JSONAnswer(
        {
            "modelfile": f"FROM {model.id}",
            "parameters": "\n".join(f"{name:<30} {value}" for name, value in defaults.items()),
            "template": loaded.chat_template.source if loaded is not None and loaded.chat_template else "",
            "details": _details(model),
            "model_info": info,
            "capabilities": _capabilities(model),
            "modified_at": _time(model),
        }
    )


@router.post("/pull", **_endpoint(forms.OllamaPullRequest, forms.OllamaStatus, streams=True))
async def pull(request: Request) -> Response:
    """Says of a model that is served that it is there; no other is fetched."""
    asked = await _read(request, forms.OllamaPullRequest)
    await state_of(request).control.find(asked.asked)
    if asked.stream is False:
        return JSONAnswer({"status": "success"})

    async def lines() -> AsyncIterator[bytes]:
        for status in ("pulling manifest", "success"):
            yield dumps({"status": status}) + b"\n"

    return LineStream(lines())


@router.get("/version", **_endpoint(None, forms.OllamaVersion))
async def version() -> Response:
    """The server's version."""
    return JSONAnswer({"version": __version__})


async def _read(request: Request, form: type[Form]) -> Form:
    """The body. A model's name may end in :latest, as Ollama's own do."""
    server = state_of(request)
    asked = await read_body(request, form, server.config)
    known = {name for model in server.models for name in model.names}
    for field in ("model", "name"):
        if (name := getattr(asked, field, None)) and name not in known:
            setattr(asked, field, name.removesuffix(":latest"))
    return asked


async def _keep(request: Request, name: str | None, keep_alive: float | str | None, skill: str) -> ServedModel:
    """The model, which stays as long as the request says. Raises HttpError."""
    server = state_of(request)
    seconds = None if keep_alive is None else seconds_of(keep_alive)
    model = await server.control.find(name, skill)
    server.control.keep(model, seconds)
    return model


async def _loaded(request: Request, model: ServedModel, asked: OllamaFields, **content: Any) -> Response:
    """The answer to a request that only asks for the model to be there, or to go."""
    server, reason = state_of(request), "load"
    if asked.keep_alive is not None and seconds_of(asked.keep_alive) == 0 and server.config.model_control:
        reason = "unload"
        if not model.pinned:
            await server.control.unload(model)
    else:
        model.check_started()
        await use(server, model, request)
    written = line(asked.model or model.id, **content, done=True, done_reason=reason)
    return Response(written, media_type="application/x-ndjson" if asked.streams else "application/json")


async def _vectors(request: Request, fields: Json) -> tuple[list[list[float]], Ran]:
    given = {name: value for name, value in fields.items() if value is not None}
    ran = await run_texts(request, validated(given, EmbeddingRequest), "embed", "embd")
    return [output.details.data.tolist() for output in ran.outputs], ran


def _card(model: ServedModel) -> Json:
    return {
        "name": model.id,
        "model": model.id,
        "modified_at": _time(model),
        "size": model.llm.model.plan.weights if model.llm is not None else _planned_weights(model),
        "digest": sha256(model.id.encode()).hexdigest(),
        "details": _details(model),
    }


def _planned_weights(model: ServedModel) -> int:
    return 0 if model.prospect is None else model.prospect.plan.weights


def _running(model: ServedModel) -> Json:
    card = _card(model)
    is_on_gpu = model.config.device == "cuda"
    more = {"size_vram": card["size"] if is_on_gpu else 0, "context_length": model.max_model_len}
    return {**card, "expires_at": _expiry(model), **more}


def _expiry(model: ServedModel) -> str:
    """When it is unloaded if nobody asks for it."""
    if model.ttl is None or model.pinned:
        return NEVER
    return _iso((model.last_used or time.time()) + model.ttl)


def _details(model: ServedModel) -> Json:
    return {
        "parent_model": "",
        "format": "gguf" if ".gguf" in (model.config.model or "") else "safetensors",
        "family": ARCHITECTURE,
        "families": [ARCHITECTURE],
        "parameter_size": "",
        "quantization_level": model.config.quantization or model.config.dtype,
    }


def _capabilities(model: ServedModel) -> list[str]:
    chat = None if model.instance is None else model.instance.chat_format
    known = {
        "completion": model.can("text"),
        "tools": chat is not None and model.can("text"),
        "thinking": chat is not None and chat.thinking is not None,
        "embedding": model.can("embed"),
    }
    return [name for name, has_it in known.items() if has_it]


def _time(model: ServedModel) -> str:
    return _iso(model.created)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(min(seconds, LATEST), UTC).isoformat().replace("+00:00", "Z")
