"""/v1/conversations: lists of items that responses go on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.server.body import read_body
from octavo.server.errors import NotFoundError
from octavo.server.items import new_id
from octavo.server.protocol.answers import ConversationAnswer, Deleted, Item, ItemList
from octavo.server.protocol.conversations import ConversationRequest, ConversationUpdate, ItemsQuery, ItemsRequest
from octavo.server.protocol.response_items import items_of
from octavo.server.query import listed, read_query
from octavo.server.response_context import add_items, find_conversation
from octavo.server.routers.responses import part_of
from octavo.server.schema import endpoint
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer

router = APIRouter(tags=["conversations"])
Json = dict[str, Any]
_PATH = "/v1/conversations/{conversation_id}"


@router.post("/v1/conversations", **endpoint(ConversationRequest, ConversationAnswer))
async def create_conversation(request: Request) -> Response:
    """Begins a conversation."""
    server = state_of(request)
    asked = await read_body(request, ConversationRequest, server.config)
    id, now = new_id("conv"), int(time.time())
    conversation = {"id": id, "object": "conversation", "created_at": now, "metadata": asked.metadata or {}}
    record: Json = {"conversation": conversation, "items": []}
    ids = add_items(record, items_of(asked.items))
    await server.responses.put(request.state.client.owner, id, record, ids)
    return JSONAnswer(conversation)


@router.get(_PATH, **endpoint(None, ConversationAnswer))
async def get_conversation(request: Request, conversation_id: str) -> Response:
    """A conversation, without its items."""
    return JSONAnswer((await _record(request, conversation_id))["conversation"])


@router.post(_PATH, **endpoint(ConversationUpdate, ConversationAnswer))
async def update_conversation(request: Request, conversation_id: str) -> Response:
    """Gives a conversation other metadata."""
    asked = await read_body(request, ConversationUpdate, state_of(request).config)

    def change(record: Json) -> list[str]:
        record["conversation"]["metadata"] = asked.metadata or {}
        return add_items(record, [])

    return JSONAnswer((await _changed(request, conversation_id, change))["conversation"])


@router.delete(_PATH, **endpoint(None, Deleted))
async def delete_conversation(request: Request, conversation_id: str) -> Response:
    """Forgets a conversation; responses that were made from it stay."""
    await _record(request, conversation_id)
    await state_of(request).responses.delete(request.state.client.owner, conversation_id)
    return JSONAnswer({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.post(f"{_PATH}/items", **endpoint(ItemsRequest, ItemList))
async def create_items(request: Request, conversation_id: str) -> Response:
    """Puts items at a conversation's end."""
    asked = await read_body(request, ItemsRequest, state_of(request).config)
    items = items_of(asked.items)
    await _changed(request, conversation_id, lambda record: add_items(record, items))
    return JSONAnswer(listed(items))


@router.get(f"{_PATH}/items", **endpoint(None, ItemList, query=ItemsQuery))
async def list_items(request: Request, conversation_id: str) -> Response:
    """A conversation's items, the last ones first unless `order` is asc."""
    record = await _record(request, conversation_id)
    return JSONAnswer(part_of(record["items"], read_query(request, ItemsQuery, may_include=True)))


@router.get(f"{_PATH}/items/{{item_id}}", **endpoint(None, Item))
async def get_item(request: Request, conversation_id: str, item_id: str) -> Response:
    """One item of a conversation."""
    record = await _record(request, conversation_id)
    return JSONAnswer(_item(record, item_id))


@router.delete(f"{_PATH}/items/{{item_id}}", **endpoint(None, ConversationAnswer))
async def delete_item(request: Request, conversation_id: str, item_id: str) -> Response:
    """Takes an item out of a conversation."""

    def change(record: Json) -> list[str]:
        record["items"].remove(_item(record, item_id))
        return add_items(record, [])

    return JSONAnswer((await _changed(request, conversation_id, change))["conversation"])


def _item(record: Json, id: str) -> Json:
    found: Json | None = next((item for item in record["items"] if item["id"] == id), None)
    if found is None:
        raise NotFoundError(f"There is no item {id[:100]!r} in this conversation", "item_id", code="item_not_found")
    return found


async def _record(request: Request, id: str) -> Json:
    """Raises NotFoundError."""
    return await find_conversation(state_of(request).responses, request.state.client.owner, id)


async def _changed(request: Request, id: str, change: Callable[[Json], Sequence[str]]) -> Json:
    """The record of a conversation after `change`. Raises NotFoundError."""
    await _record(request, id)
    record = await state_of(request).responses.change(request.state.client.owner, id, change)
    return record if record is not None else await _record(request, id)
