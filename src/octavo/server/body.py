"""Reads a request's body: limits, JSON without its oddities, and the model of its endpoint."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from octavo import strict_json
from octavo.server.dialects import is_ollama
from octavo.server.errors import ClientGoneError, HttpError
from octavo.server.options import ServerConfig
from octavo.server.validation import validation_error

INLINE_BYTES = 32 << 10  # longer bodies are parsed on another thread
MAX_VALUES = 1 << 18  # the most commas in one body: many values take longer to parse than long ones
MAX_NAMES = 1 << 15  # the most entries of objects, and the most lists
T = TypeVar("T", bound=BaseModel)


async def read_body(request: Request, model: type[T], config: ServerConfig) -> T:
    """The body as `model`. Raises HttpError, naming the field that is wrong."""
    raw = await read_raw(request, config)
    if len(raw) <= INLINE_BYTES:
        return parse(raw, model)
    return await asyncio.get_running_loop().run_in_executor(None, parse, raw, model)


async def read_raw(request: Request, config: ServerConfig) -> bytes:
    """The bytes of a body that says it is JSON. Raises HttpError."""
    _check_type(request)
    return await _read(request, config)


def parse(raw: bytes, model: type[T]) -> T:
    return validated(parse_object(raw), model)


def parse_object(raw: bytes, what: str = "the body") -> dict[str, Any]:
    """A JSON object of bounded parts. Raises HttpError."""
    for separator, limit, parts in (
        (b",", MAX_VALUES, "values"),
        (b'":', MAX_NAMES, "names"),
        (b"[", MAX_NAMES, "lists"),
    ):
        if raw.count(separator) > limit:
            raise HttpError(f"{what} has more than {limit} {parts}", code="too_many_values")
    try:
        value = strict_json.loads(raw)
    except ValueError as error:
        raise HttpError(f"{what} is not valid JSON: {str(error)[:200]}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise HttpError(f"{what} must be a JSON object", code="invalid_json")
    return value


def validated(fields: dict[str, Any], model: type[T]) -> T:
    """The fields of a body as `model`. Raises HttpError for the first that is wrong."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise validation_error(error) from None


def _check_type(request: Request) -> None:
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    charset = rest.partition("charset=")[2].strip().strip('"').lower()
    is_json = kind.strip().lower() == "application/json" and charset in ("", "utf-8", "utf8")
    # Clients of Ollama may leave it out. Pages may not: a browser sends some types for any page without asking.
    is_lenient = is_ollama(request.scope) and "origin" not in request.headers
    if not (is_json or is_lenient):
        raise HttpError("the body must be sent as 'Content-Type: application/json'", status=415, code="media_type")
    check_encoding(request)


def check_encoding(request: Request) -> None:
    """Raises HttpError for a compressed body."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpError("compressed bodies are not supported", status=415, code="media_type")


def announced_bytes(request: Request) -> int:
    """The length that the headers say; 0 if they say none."""
    announced = request.headers.get("content-length", "0")
    return int(announced[:20]) if announced.isdigit() else 0


async def _read(request: Request, config: ServerConfig) -> bytes:
    """The whole body, if it is small enough and comes soon enough."""
    limit = config.max_body_bytes
    if announced_bytes(request) > limit:
        raise _too_large(limit)
    pieces, size = [], 0
    async for piece in receive(request, config.body_timeout):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
    return b"".join(pieces)


async def receive(request: Request, seconds: float, least_rate: float = math.inf) -> AsyncIterator[bytes]:
    """The body in the pieces in which it arrives.

    It has `seconds`, and one more for each `least_rate` bytes that came. Raises HttpError after that, and
    ClientGoneError if the client leaves.
    """
    end, size = asyncio.get_running_loop().time() + seconds, 0
    while True:
        try:
            async with asyncio.timeout_at(end + size / least_rate):
                message = await request.receive()
        except TimeoutError:
            reason = f"the body did not arrive within {seconds:g} s"
            raise HttpError(reason, status=408, code="slow_body", headers={"connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client left before its request was complete")
        piece = message.get("body", b"")
        size += len(piece)
        yield piece
        if not message.get("more_body", False):
            return


def _too_large(limit: int) -> HttpError:
    reason = f"the body is larger than {limit} bytes (--max-body-bytes)"
    return HttpError(reason, status=413, code="body_too_large", headers={"connection": "close"})
