"""/v1/conversations: lists of items that responses go on from."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from octavo.server.body import read_body
from octavo.server.errors import NotFoundError
from octavo.server.items import new_id
from octavo.server.protocol.answers import ConversationAnswer, Deleted, ItemList
from octavo.server.protocol.conversations import ConversationRequest, ConversationUpdate, ItemsRequest
from octavo.server.protocol.response_items import items_of
from octavo.server.response_context import add_items, find_conversation
from octavo.server.routers.responses import page
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
    metadata = asked.metadata or {}
    conversation = {"id": new_id("conv"), "object": "conversation", "created_at": int(time.time()), "metadata": metadata}
    record: Json = {"conversation": conversation, "items": []}
    ids = add_items(record, items_of(asked.items))
    await server.responses.put(request.state.client.owner, conversation["id"], record, ids)
    return JSONAnswer(conversation)


@router.get(_PATH, **endpoint(None, ConversationAnswer))
async def get_conversation(request: Request, conversation_id: str) -> Response:
    """A conversation, without its items."""
    return JSONAnswer((await _record(request, conversation_id))["conversation"])


@router.post(_PATH, **endpoint(ConversationUpdate, ConversationAnswer))
async def update_conversation(request: Request, conversation_id: str) -> Response:
    """Gives a conversation other metadata."""
    asked = await read_body(request, ConversationUpdate, state_of(request).config)

    def change(record: Json) -> None:
        record["conversation"]["metadata"] = asked.metadata or {}

    return JSONAnswer((await _changed(request, conversation_id, change))["conversation"])
