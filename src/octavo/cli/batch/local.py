"""Answers of a batch from an engine in this process: the server's own endpoints, called without a socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.server.app import make_app, wrap
from octavo.server.batches.calling import call
from octavo.server.batches.entries import Reply
from octavo.server.batches.lines import Line
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
        return await call(self._app, line)

    def close(self) -> None:
        self._models.close()
