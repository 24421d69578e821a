"""Probes, and what else monitors read: /livez, /readyz, /health, /ping, /version, /load, /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.protocol.answers import Health, Load, Version
from octavo.server.schema import endpoint
from octavo.server.state import ServerState, state_of
from octavo.server.writing import JSONAnswer
from octavo.version import __version__

router = APIRouter(tags=["health"])
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _answer(server: ServerState, well: str, ill: str, reason: str | None) -> JSONAnswer:
    """Probes are open to everyone: they tell phases and nothing of the machine."""
    answer = {"reason": reason, "models": {model.short_name: model.phase for model in server.models}}
    if reason is None:
        return JSONAnswer({"status": well, **answer})
    return JSONAnswer({"status": ill, **answer}, 503, {"retry-after": "1"})


@router.get("/livez", **endpoint(None, Health, probe=True))
async def livez(request: Request) -> Response:
    """Whether the event loop runs and every engine's steps go on. A server that fails this should be restarted."""
    server = state_of(request)
    return _answer(server, "alive", "failed", server.models.ailment())


@router.get("/readyz", **endpoint(None, Health, probe=True))
async def readyz(request: Request) -> Response:
    """Whether requests should be sent here: the start is over, all engines are well, and it is not shutting down."""
    server = state_of(request)
    return _answer(server, "ready", "not ready", server.unready())


@router.get("/health", **endpoint(None, Health, probe=True))
async def health(request: Request) -> Response:
    """The same as /livez, for monitors that look for "ok"."""
    server = state_of(request)
    return _answer(server, "ok", "failed", server.models.ailment())


@router.get("/ping", **endpoint(None, Health, probe=True))
@router.post("/ping", **endpoint(None, Health, probe=True))
async def ping(request: Request) -> Response:
    """The same as /readyz, under the name that hosting platforms ask for."""
    return await readyz(request)


@router.get("/version", **endpoint(None, Version))
async def version() -> Response:
    """The server's version."""
    return JSONAnswer({"version": __version__})


@router.get("/load", **endpoint(None, Load))
async def load(request: Request) -> Response:
    """How busy the server is."""
    server = state_of(request)
    stats = [model.stats() for model in server.models]
    return JSONAnswer(
        {
            "server_load": len(server.active),
            "running": sum(numbers.running for numbers in stats),
            "waiting": sum(numbers.waiting for numbers in stats),
            "kv_cache_usage": max((numbers.block_usage for numbers in stats), default=0.0),
        }
    )


@router.get("/metrics", **endpoint(None, None, texts=["text/plain"]))
async def get_metrics(request: Request) -> Response:
    """Everything that is counted, in the text format of Prometheus."""
    from octavo.server.exposition import exposition  # prometheus_client takes a while to import

    return Response(exposition(state_of(request)), media_type=METRICS_TYPE)
