"""/v1/responses: OpenAI's API for agents."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.server.admission import named
from octavo.server.answering import begin
from octavo.server.background import detached
from octavo.server.body import read_body
from octavo.server.chatting import ChatWriter
from octavo.server.errors import HttpError, NotFoundError
from octavo.server.items import as_chat
from octavo.server.protocol.answers import Deleted, InputTokenCount, ItemList, ResponseAnswer
from octavo.server.protocol.conversations import ItemsQuery, ResponseQuery
from octavo.server.protocol.responses import NAMES, InputTokensRequest, ResponsesRequest
from octavo.server.query import listed, page, read_query
from octavo.server.response_context import read_context
from octavo.server.responses import ResponseWriter
from octavo.server.schema import endpoint
from octavo.server.sse import EventStream
from octavo.server.state import ServerState, state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["responses"])
INTERRUPTED = {"code": "server_error", "message": "the server ended before this was finished"}
Json = dict[str, Any]


@router.post("/v1/responses", **endpoint(ResponsesRequest, ResponseAnswer, streams=True))
async def create_response(request: Request) -> Response:
    """Answers a conversation of items, and keeps the answer unless `store` is false."""
    server, owner = state_of(request), request.state.client.owner
    asked = await read_body(request, ResponsesRequest, server.config)
    asked.check()
    context = await read_context(server.responses, owner, asked)
    chat = as_chat(request, *asked.chat(context.history, context.items), NAMES)
    if asked.background:
        request = detached(request)
    generation = await begin(request, chat, ResponseWriter)
    writer = ResponseWriter(request, chat, generation, asked=asked, context=context)
    if not asked.background:
        return await writer.response()
    queued = writer.object("queued")
    await context.keep(queued)
    running = server.background.start(owner, writer, request.state.leases.pop_all())  # it outlives this request
    return EventStream(running.follow(), done=b"") if asked.stream else JSONAnswer(queued)


@router.post("/v1/responses/input_tokens", **endpoint(InputTokensRequest, InputTokenCount))
async def count_input_tokens(request: Request) -> Response:
    """How many tokens the input of a response has for the model."""
    server = state_of(request)
    asked = await read_body(request, InputTokensRequest, server.config)
    context = await read_context(server.responses, request.state.client.owner, asked)
    chat = as_chat(request, *asked.chat(context.history, context.items), NAMES)
    chat.check()
    (prompt,) = await ChatWriter.read(await named(request, chat.model, "text"), chat)
    return JSONAnswer({"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)})


@router.get("/v1/responses/{response_id}", **endpoint(None, ResponseAnswer, streams=True, query=ResponseQuery))
async def get_response(request: Request, response_id: str) -> Response:
    """A response that was kept; of one in the background its events, from the one after `starting_after` on."""
    server, owner = state_of(request), request.state.client.owner
    query = read_query(request, ResponseQuery, may_include=True)
    if not query.stream:
        return JSONAnswer(await _current(server, owner, response_id))
    running = server.background.find(owner, response_id)
    if running is None:
        await _current(server, owner, response_id)
        reason = "stream: only of a response that was made with background=true, not long ago"
        raise HttpError(reason, "stream", code="invalid_value")
    return EventStream(running.follow(query.starting_after), done=b"")


@router.delete("/v1/responses/{response_id}", **endpoint(None, Deleted))
async def delete_response(request: Request, response_id: str) -> Response:
    """Forgets a response."""
    server, owner = state_of(request), request.state.client.owner
    if (running := server.background.find(owner, response_id)) is not None:
        await running.cancel()
        server.background.forget(response_id)
    await _record(server, owner, response_id)
    await server.responses.delete(owner, response_id)
    return JSONAnswer({"id": response_id, "object": "response", "deleted": True})


@router.post("/v1/responses/{response_id}/cancel", **endpoint(None, ResponseAnswer))
async def cancel_response(request: Request, response_id: str) -> Response:
    """Ends a response in the background."""
    server, owner = state_of(request), request.state.client.owner
    response = await _current(server, owner, response_id)
    running = server.background.find(owner, response_id)
    if running is not None and not running.has_ended:
        await running.cancel()
        response = await _current(server, owner, response_id)
    if response["status"] != "cancelled":
        what = f"is {response['status']}" if response["background"] else "is not in the background"
        raise HttpError(f"the response {what} and can't be cancelled", code="not_cancellable")
    return JSONAnswer(response)


@router.get("/v1/responses/{response_id}/input_items", **endpoint(None, ItemList, query=ItemsQuery))
async def list_input_items(request: Request, response_id: str) -> Response:
    """The items that a response got in its request."""
    record = await _record(state_of(request), request.state.client.owner, response_id)
    return JSONAnswer(part_of(record["input"], read_query(request, ItemsQuery, may_include=True)))


def part_of(items: list[Json], query: ItemsQuery) -> Json:
    """A page of a list of items. Raises HttpError if `query.after` is none of them."""
    ordered = items if query.order == "asc" else items[::-1]
    return listed(*page(ordered, query.after, query.limit, itemgetter("id")))


async def _record(server: ServerState, owner: str, id: str) -> Json:
    record = await server.responses.get(owner, id)
    if record is None or "response" not in record:
        raise NotFoundError(f"Response with id {id[:100]!r} not found.", "response_id", code="response_not_found")
    return record


async def _current(server: ServerState, owner: str, id: str) -> Json:
    """The response as it is now. Raises NotFoundError."""
    running = server.background.find(owner, id)
    if running is not None and not running.has_ended:
        return running.object()
    response: Json = (await _record(server, owner, id))["response"]
    if response["status"] in ("queued", "in_progress"):  # of a server that was here before
        return {**response, "status": "failed", "error": INTERRUPTED}
    return response
