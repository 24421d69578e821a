"""The way of a request to its model: found, its queue asked for room, loaded if need be, and kept until the end."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from starlette.requests import Request

from octavo.errors import OctavoError
from octavo.server.errors import ClientGoneError, HttpError
from octavo.server.instance import ModelInstance
from octavo.server.models import ServedModel
from octavo.server.options import LONGEST
from octavo.server.state import ServerState, state_of

TIMEOUT_HEADER = "x-request-timeout"  # seconds; a request may only shorten what the server allows


async def admit(server: ServerState, model: ServedModel, request: Request, num_prompts: int) -> ModelInstance:
    """The model's instance for this request. Refuses early, before a prompt is tokenized.

    Raises UnavailableError or RateLimitError, and what `use` raises.
    """
    server.check_open()
    model.check_started()
    try:
        model.queue_of(request.state.is_background).admit(num_prompts)
        request.state.client.admit()
    except HttpError as error:
        model.metrics.refused[error.code] += 1
        raise
    return await use(server, model, request, num_prompts)


async def named(request: Request, name: str | None, skill: str | None = None) -> ModelInstance:
    """The instance of the model that a request names, or of the only one with a skill, without a place in its queue."""
    server = state_of(request)
    return await use(server, await server.control.find(name, skill), request)


async def use(server: ServerState, model: ServedModel, request: Request, num_prompts: int = 1) -> ModelInstance:
    """The model's instance, which stays until the request's `leases` are closed; it is loaded if it is not.

    Raises UnavailableError, DeadlineError or HttpError, and ClientGoneError.
    """
    queue = model.queue_of(request.state.is_background)
    if model.is_ready:
        instance = await server.control.acquire(model, 0.0)
    else:
        loop = asyncio.get_running_loop()
        began = loop.time()
        queue.requests += num_prompts  # they wait as others do
        try:
            instance = await _brought(server, model, request)
        except HttpError as error:
            model.metrics.refused[error.code] += 1
            raise
        finally:
            queue.requests -= num_prompts
            request.state.waited += loop.time() - began
    request.state.leases.callback(instance.release)
    return instance


async def _brought(server: ServerState, model: ServedModel, request: Request) -> ModelInstance:
    """Waits for the model as long as the client does, and the server, and the request's time lasts."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[OctavoError] = loop.create_future()

    def fail(error: OctavoError) -> None:
        if not ended.done():
            ended.set_result(error)

    longest = LONGEST if request.state.is_background else server.config.request_timeout
    acquiring = loop.create_task(server.control.acquire(model, min(longest, asked_timeout(request))))
    watching = loop.create_task(_until_gone(request))
    server.active.add(fail)
    try:
        waited: list[asyncio.Future[Any]] = [acquiring, ended, watching]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if acquiring.done():
            return acquiring.result()
        if ended.done():
            raise ended.result()
        raise ClientGoneError("the client closed the connection")
    except asyncio.CancelledError:
        acquiring.add_done_callback(_let_go)
        raise
    finally:
        server.active.discard(fail)
        for each in (acquiring, watching, ended):
            each.cancel()


def _let_go(acquiring: asyncio.Task[ModelInstance]) -> None:
    """What nobody took."""
    if not acquiring.cancelled() and acquiring.exception() is None:
        acquiring.result().release()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def asked_timeout(request: Request) -> float:
    """Seconds that the request may take, if it says so. Raises HttpError for a header that is no number."""
    asked = request.headers.get(TIMEOUT_HEADER)
    if asked is None:
        return math.inf
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        reason = f"{TIMEOUT_HEADER}: must be a number of seconds above 0, got {asked[:40]!r}"
        raise HttpError(reason, TIMEOUT_HEADER, code="invalid_value")
    return seconds
