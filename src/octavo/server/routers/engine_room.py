"""The engines at work: GET /engine/stats, and the same as a stream of events."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import APIRouter, Request, Response

from octavo.server.engine_room import FRESH
from octavo.server.protocol.engine_stats import EngineStatsAnswer, EventsQuery
from octavo.server.query import read_query
from octavo.server.schema import endpoint
from octavo.server.sse import EventStream, event
from octavo.server.state import ServerState, state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["engine"])


@router.get("/engine/stats", **endpoint(None, EngineStatsAnswer))
async def engine_stats(request: Request) -> Response:
    """What the engines do right now: requests, KV blocks, rates, times of steps. No text of any request."""
    return Response(await state_of(request).engine_room.look(), media_type=JSONAnswer.media_type)


@router.get("/engine/events", **endpoint(None, None, streams=True, query=EventsQuery))
async def engine_events(request: Request) -> Response:
    """The same again and again, as events of the type `stats`, until the client leaves or the server shuts down."""
    query = read_query(request, EventsQuery)
    state_of(request).check_open()
    return EventStream(_events(state_of(request), request, query.interval), done=b"")


async def _events(server: ServerState, request: Request, interval: float) -> AsyncIterator[bytes]:
    """Those who ask for the same interval are told at the same time, so that one look is enough."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    server.viewers.add(over.set)  # draining ends it, and does not wait for who reads slowly
    watcher = loop.create_task(_watch(request, over))
    try:
        while not over.is_set():
            yield event(await server.engine_room.look(FRESH), "stats")
            now = loop.time()
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), (math.floor(now / interval) + 1) * interval - now)
    finally:
        watcher.cancel()
        server.viewers.discard(over.set)


async def _watch(request: Request, over: asyncio.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    over.set()
