"""Answers of a batch from an engine in this process: the server's own endpoints, called without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Message

from octavo.cli.batch.lines import Line
from octavo.cli.batch.output import Reply
from octavo.server.app import make_app, wrap
from octavo.server.models import ModelRegistry
from octavo.server.options import ModelSpec, ServerConfig
from octavo.server.state import ServerState

NO_LIMIT = 1 << 40
A_WEEK = 7 * 86400.0
# A batch has a queue of its own, and no client waits.
CONFIG = ServerConfig(
    max_queued_requests=NO_LIMIT,
    max_queued_tokens=NO_LIMIT,
    max_body_bytes=NO_LIMIT,
    request_timeout=A_WEEK,
    log_requests=False,
)
# A request with JSON, in ASGI's words; its path is to be added.
POST = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}


class LocalBatch:
    """An engine that runs as many requests at once as it has room for. `names` are what bodies may call its model.

    Raises what making an engine raises.
    """

    def __init__(self, options: Mapping[str, Any], names: tuple[str, ...]):
        self._models = ModelRegistry([ModelSpec(options=options, names=names)], CONFIG)
        (model,) = self._models
        model.load()
        server = ServerState(CONFIG, self._models)
        self._app = wrap(make_app(server), server)
        self.concurrency = 2 * model.config.max_num_seqs  # the next request is there as one ends

    async def answer(self, line: Line) -> Reply:
        messages: list[Message] = [{"type": "http.request", "body": json.dumps(line.body).encode()}]
        answer: list[Message] = []

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await asyncio.Future()  # this client stays
            raise AssertionError

        async def send(message: Message) -> None:
            answer.append(message)

        await self._app({**POST, "path": line.url, "raw_path": line.url.encode()}, receive, send)
        headers = dict(answer[0]["headers"])
        body = json.loads(b"".join(message.get("body", b"") for message in answer[1:]))
        return Reply(answer[0]["status"], body, headers[b"x-request-id"].decode())

    def close(self) -> None:
        self._models.close()
