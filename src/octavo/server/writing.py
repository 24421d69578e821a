"""JSON as the server writes it, and the answers that are nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from octavo.server.dialects import error_json
from octavo.server.errors import HttpError, status_of

INLINE_NUMBERS = 2048  # answers with more are written on another thread


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class JSONAnswer(Response):
    """A JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


async def list_answer(head: Mapping[str, Any], name: str, entries: Iterable[Any], num_numbers: int) -> Response:
    """`head` and a list of `entries`, of so many numbers in all.

    Many are written on another thread, entry by entry, so that others have the interpreter in between.
    """

    def write() -> bytes:
        return b",".join(map(dumps, entries))

    is_short = num_numbers < INLINE_NUMBERS
    written = write() if is_short else await asyncio.get_running_loop().run_in_executor(None, write)
    body = dumps(head)[:-1] + b',"' + name.encode() + b'":[' + written + b"]}"
    return Response(body, media_type=JSONAnswer.media_type)


def error_answer(error: BaseException, scope: Scope) -> JSONAnswer:
    """The answer to the request of `scope` that an error becomes."""
    headers = error.headers if isinstance(error, HttpError) else None
    return JSONAnswer(error_json(error, scope), status_of(error), headers)
