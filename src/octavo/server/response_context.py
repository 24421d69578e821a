"""What a response goes on from, and how it is kept: itself, its input, and what came before that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octavo.server.errors import HttpError, NotFoundError
from octavo.server.protocol.response_items import items_of
from octavo.server.protocol.responses import ResponseFields
from octavo.server.response_store import ResponseStore

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """The items that a response is made from, and where it belongs. Records of responses have all of them."""

    store: ResponseStore
    owner: str
    history: list[Json]  # items of the previous response or of the conversation
    items: list[Json]  # of the request
    conversation: str | None

    async def keep(self, response: Json) -> None:
        """Writes a response down, and what is new into its conversation. Raises StoreFailedError."""
        new = [*self.items, *response["output"]]
        if response["store"]:
            record = {"response": response, "input": self.items, "history": self.history}
            await self.store.put(self.owner, response["id"], record, _ids(new))
        if self.conversation and response["status"] in ("completed", "incomplete"):
            await self.store.change(self.owner, self.conversation, lambda record: add_items(record, new))


async def read_context(store: ResponseStore, owner: str, asked: ResponseFields) -> Context:
    """What a request goes on from. Raises HttpError for what is not there, or is another's."""
    history: list[Json] = []
    if asked.previous_response_id is not None:
        history = await _items_until(store, owner, asked.previous_response_id)
    elif asked.conversation_id is not None:
        history = (await find_conversation(store, owner, asked.conversation_id))["items"]
    items = [
        await _referred(store, owner, item["id"], history, place) if item["type"] == "item_reference" else item
        for place, item in enumerate(items_of(asked.input))
    ]
    return Context(store, owner, history, items, asked.conversation_id)


async def find_conversation(store: ResponseStore, owner: str, id: str) -> Json:
    """The record of a conversation. Raises NotFoundError."""
    record = await store.get(owner, id)
    if record is None or "conversation" not in record:
        raise NotFoundError(f"There is no conversation {id[:100]!r}", "conversation", code="conversation_not_found")
    return record


def add_items(record: Json, items: list[Json]) -> list[str]:
    """Puts items at the end of a conversation's record; returns the ids of all that it has then."""
    record["items"] += items
    return _ids(record["items"])


async def _items_until(store: ResponseStore, owner: str, id: str) -> list[Json]:
    """All items up to the end of a response."""
    record = await store.get(owner, id)
    if record is None or "response" not in record:
        reason = f"Previous response with id {id[:100]!r} not found."
        raise HttpError(reason, "previous_response_id", code="previous_response_not_found")
    if (status := record["response"]["status"]) in ("queued", "in_progress"):
        reason = f"previous_response_id: {id[:100]!r} is still {status}; wait until it is completed"
        raise HttpError(reason, "previous_response_id", code="previous_response_not_finished")
    return [*record["history"], *record["input"], *record["response"]["output"]]


async def _referred(store: ResponseStore, owner: str, id: str, history: list[Json], place: int) -> Json:
    """The item of an id."""
    record = await store.find(owner, id) or {}
    known = [
        *history,
        *record.get("input", ()),
        *record.get("items", ()),
        *record.get("response", {}).get("output", ()),
    ]
    found: Json | None = next((item for item in known if item["id"] == id), None)
    if found is None:
        raise NotFoundError(f"input[{place}].id: there is no item {id[:100]!r}", "input.id", code="item_not_found")
    return found


def _ids(items: list[Json]) -> list[str]:
    return [item["id"] for item in items]
