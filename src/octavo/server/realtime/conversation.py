"""The items of a session's conversation, in order."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from octavo.server.errors import HttpError
from octavo.server.protocol.realtime import MessageItem

MAX_ITEMS = 4096
ROOT = "root"  # a client's name of the place before the first item


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


@dataclass(slots=True)
class Item:
    """A message. What is spoken has no text before it was written down."""

    role: str
    text: str | None = None
    id: str = field(default_factory=lambda: new_id("item"))
    status: str = "completed"
    is_spoken: bool = False

    @classmethod
    def of(cls, message: MessageItem) -> Item:
        text = "\n".join(part.text for part in message.content)
        return cls(message.role, text, message.id or new_id("item"))

    def message(self) -> dict[str, str]:
        """As a chat template takes it."""
        return {"role": self.role, "content": self.text or ""}

    def json(self) -> dict[str, Any]:
        if self.is_spoken:
            content: list[dict[str, Any]] = [{"type": "input_audio", "transcript": self.text}]
        else:
            kind = "output_text" if self.role == "assistant" else "input_text"
            content = [] if self.text is None else [{"type": kind, "text": self.text}]
        return {
            **{"id": self.id, "object": "realtime.item", "type": "message"},
            **{"status": self.status, "role": self.role, "content": content},
        }


class Conversation:
    """Items by their ids; `MAX_ITEMS` at most."""

    def __init__(self) -> None:
        self.id = new_id("conv")
        self._items: list[Item] = []

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Puts an item behind `after`, or behind all others; returns the id of the one before it. Raises HttpError."""
        if len(self._items) >= MAX_ITEMS:
            raise HttpError(f"the conversation has {MAX_ITEMS} items, which are the most", code="too_many_items")
        if any(item.id == other.id for other in self._items):
            raise HttpError(f"item.id: there is an item {item.id!r} already", "item.id", code="invalid_value")
        place = len(self._items)
        if after is not None:
            place = 0 if after == ROOT else self._place(after, "previous_item_id") + 1
        self._items.insert(place, item)
        return self._items[place - 1].id if place else None

    def find(self, id: str, field: str = "item_id") -> Item:
        """Raises HttpError."""
        return self._items[self._place(id, field)]

    def remove(self, id: str) -> None:
        """Raises HttpError."""
        del self._items[self._place(id, "item_id")]

    @property
    def last_id(self) -> str | None:
        return self._items[-1].id if self._items else None

    def messages(self) -> list[dict[str, str]]:
        """Of all items that have a text."""
        return [item.message() for item in self._items if item.text is not None]

    def _place(self, id: str, field: str) -> int:
        for place, item in enumerate(self._items):
            if item.id == id:
                return place
        raise HttpError(f"{field}: there is no item {id[:64]!r}", field, code="item_not_found")
