"""/v1/conversations: the requests, and what lists of items are asked for with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from octavo.server.protocol.common import MAX_INT, UNUSED, Name, RequestModel
from octavo.server.protocol.forms import BOOLEAN, INTEGER
from octavo.server.protocol.response_items import Items
from octavo.server.protocol.responses import Metadata


class ConversationRequest(RequestModel):
    """A conversation to begin."""

    items: Items | None = None
    metadata: Metadata | None = None


class ConversationUpdate(RequestModel):
    """A conversation's new metadata."""

    metadata: Metadata | None


class ItemsRequest(RequestModel):
    """Items to put at a conversation's end."""

    items: Annotated[Items, Field(min_length=1)]


class ItemsQuery(RequestModel):
    after: Name | None = Field(None, description="the id of the last item of the page before")
    limit: Annotated[int, Field(ge=1, le=100), INTEGER] = 20
    order: Literal["asc", "desc"] = "desc"


class ResponseQuery(RequestModel):
    stream: Annotated[bool, BOOLEAN] = False
    starting_after: Annotated[int, Field(ge=-1, le=MAX_INT), INTEGER] = Field(-1, description="the number of an event")
    include_obfuscation: Annotated[bool, BOOLEAN] = Field(False, description=UNUSED)
