"""The JSON that answers of several endpoints have in common. A chunk's is written by hand: there is one per token."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from octavo.server.generation import Generation
from octavo.version import __version__

FINGERPRINT = f"octavo-{__version__}"
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class JSONAnswer(Response):
    """A JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


def new_id(prefix: str, request: Request, given: str | None) -> str:
    """An answer's id: what the request says, or its x-request-id, or a fresh one, behind a prefix."""
    name = given or request.state.given_id
    return f"{prefix}-{name if name and _ID.fullmatch(name) else uuid.uuid4().hex}"


def usage_json(generation: Generation) -> dict[str, Any]:
    """Tokens read and written so far."""
    read, written = generation.num_prompt_tokens, sum(generation.num_output_tokens)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": generation.num_cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class ChunkWriter:
    """Writes the chunks of one stream: what is the same in all of them is made once."""

    def __init__(self, answer_id: str, kind: str, model: str, generation: Generation, usage: bool, running: bool):
        head = {
            "id": answer_id,
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._head = b"data: " + dumps(head)[:-1] + b',"choices":['
        self._generation, self._usage, self._running = generation, usage, running

    def chunk(self, choice: bytes, more: bytes = b"") -> bytes:
        """One event with one choice; `more` is JSON of further fields, each after a comma."""
        if self._running:
            more += b',"usage":' + dumps(usage_json(self._generation))
        elif self._usage:
            more += b',"usage":null'
        return self._head + choice + b"]" + more + b"}\n\n"

    async def with_usage(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """`chunks`, and then the event with the usage, if it was asked for.

        It also comes where what has begun is ended by an error, which is raised after it.
        """
        begun = False
        try:
            async for chunk in chunks:
                yield chunk
                begun = True
        except Exception:
            if begun and self._usage:
                yield self._last()
            raise
        if self._usage:
            yield self._last()

    def _last(self) -> bytes:
        return self._head + b'],"usage":' + dumps(usage_json(self._generation)) + b"}\n\n"
