"""POST /invocations: the one endpoint that SageMaker sends everything to. The body says which of ours answers."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.types import Message, Receive

from octavo.server.body import parse_object, read_raw
from octavo.server.errors import HttpError
from octavo.server.protocol.invocations import InvocationAnswer, InvocationRequest
from octavo.server.routers.audio import TEXTS, create_transcription
from octavo.server.routers.chat import create_chat_completion
from octavo.server.routers.completions import create_completion
from octavo.server.routers.embeddings import create_embeddings
from octavo.server.routers.pooling import classify, pool
from octavo.server.routers.scoring import rerank, score
from octavo.server.schema import endpoint
from octavo.server.state import ServerState, state_of

router = APIRouter(tags=["hosting"])
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"  # name=value, …: the other fields of audio that is the whole body
Handler = Callable[[Request], Awaitable[Response]]
# Fields of which one is enough to know the request; the first that is there counts. `input` is looked at last.
KINDS: tuple[tuple[tuple[str, ...], Handler], ...] = (
    (("messages",), create_chat_completion),
    (("prompt",), create_completion),
    (("documents", "query"), rerank),
    (("text_1", "queries", "data_1"), score),
)
# What is made of `input`, by the first of these that the model can do.
INPUTS: tuple[tuple[str, Handler], ...] = (("embed", create_embeddings), ("classify", classify), ("pool", pool))


@router.post("/invocations", **endpoint(InvocationRequest, InvocationAnswer, streams=True, texts=TEXTS))
async def invoke(request: Request) -> Response:
    """Answers what the body asks for: a conversation, a completion, vectors, scores, or the text of speech."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await create_transcription(request)
    if kind.startswith("audio/"):
        return await create_transcription(_as_form(request))
    server = state_of(request)
    raw = await read_raw(request, server.config)
    handler = await _handler(server, parse_object(raw))
    return await handler(_again(request, raw))


async def _handler(server: ServerState, fields: dict[str, Any]) -> Handler:
    """Who answers such a body. Raises HttpError for one that nobody does."""
    for names, handler in KINDS:
        if any(name in fields for name in names):
            return handler
    if "input" not in fields:
        known = ", ".join(name for names, _ in KINDS for name in names)
        advice = "; SageMaker's 'inputs' is 'prompt' or 'messages' here" if "inputs" in fields else ""
        reason = f"the body must have one of {known}, input, or be audio{advice}"
        raise HttpError(reason, code="missing_field")
    if "task" in fields:
        return pool
    name = fields.get("model") if isinstance(fields.get("model"), str) else None
    chosen = [await server.control.find(name)] if name else list(server.models)
    able = (handler for skill, handler in INPUTS if any(model.can(skill) for model in chosen))
    return next(able, create_embeddings)  # which says what is served instead


def _again(request: Request, raw: bytes) -> Request:
    """The request with its body unread."""
    messages: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await request.receive()

    return Request(request.scope, receive)


def _as_form(request: Request) -> Request:
    """The request whose body is audio as the form that the endpoint of speech reads; nothing is held back."""
    boundary = uuid.uuid4().hex
    parts = [f'name="{name}"\r\n\r\n{value}' for name, value in _attributes(request)]
    parts.append('name="file"; filename="audio"\r\n\r\n')
    opening = f"--{boundary}\r\ncontent-disposition: form-data; "
    head = "".join(f"\r\n{opening}{part}" for part in parts).removeprefix("\r\n").encode()
    replaced = (b"content-type", b"content-length")
    headers = [(name, value) for name, value in request.scope["headers"] if name not in replaced]
    headers.append((b"content-type", f"multipart/form-data; boundary={boundary}".encode()))
    receive = _framed(request, head, f"\r\n--{boundary}--\r\n".encode())
    return Request({**request.scope, "headers": headers}, receive)


def _framed(request: Request, head: bytes, tail: bytes) -> Receive:
    """What receives the body with something before and behind it."""
    before, has_ended = head, False

    async def receive() -> Message:
        nonlocal before, has_ended
        message = await request.receive()
        if has_ended or message["type"] != "http.request":
            return message
        has_ended = not message.get("more_body", False)
        body, before = before + message.get("body", b"") + (tail if has_ended else b""), b""
        return {**message, "body": body}

    return receive


def _attributes(request: Request) -> list[tuple[str, str]]:
    """Raises HttpError for what is no list of fields."""
    found = []
    for each in filter(None, (one.strip() for one in request.headers.get(ATTRIBUTES, "").split(","))):
        name, is_there, value = each.partition("=")
        if not is_there or not name.strip().isidentifier():
            reason = f"{ATTRIBUTES}: must be name=value, name=value, …, got {each[:40]!r}"
            raise HttpError(reason, ATTRIBUTES, code="invalid_value")
        found.append((name.strip(), value.strip()))
    return found
