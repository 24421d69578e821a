"""The items of a session's conversation, in order."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from octavo.server.errors import HttpError
from octavo.server.protocol.realtime import CallItem, CallOutputItem, GivenItem, MessageItem
from octavo.server.protocol.translation import Conversation as Chat

MAX_ITEMS = 4096
ROOT = "root"  # a client's name of the place before the first item


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


@dataclass(slots=True)
class Item:
    """A message, the call of a tool, or what came of one.

    `text` is what it says: of a call its arguments, which are JSON. What is spoken has none before it was written down.
    """

    role: str = ""
    text: str | None = None
    id: str = field(default_factory=lambda: new_id("item"))
    status: str = "completed"
    kind: str = "message"  # or function_call, function_call_output
    is_spoken: bool = False
    name: str = ""  # of the tool that is called
    call_id: str = ""

    @classmethod
    def of(cls, given: GivenItem) -> Item:
        """A client's item."""
        id = given.id or new_id("item")
        match given:
            case CallItem():
                call_id = given.call_id or new_id("call")
                return cls("assistant", given.arguments, id, kind=given.type, name=given.name, call_id=call_id)
            case CallOutputItem():
                return cls("tool", given.output, id, kind=given.type, call_id=given.call_id)
            case MessageItem():
                return cls(given.role, "\n".join(part.text for part in given.content), id)

    def say(self, chat: Chat) -> None:
        """Puts it into a chat completion's messages."""
        if self.text is None:
            return
        if self.kind == "function_call":
            chat.call(self.call_id, self.name, self.text, self.id)
        elif self.kind == "function_call_output":
            chat.answer_call(self.call_id, [self.text], self.id)
        else:
            chat.say(self.role, [self.text], self.id)

    def json(self) -> dict[str, Any]:
        head = {"id": self.id, "object": "realtime.item", "type": self.kind, "status": self.status}
        if self.kind == "function_call":
            return {**head, "call_id": self.call_id, "name": self.name, "arguments": self.text}
        if self.kind == "function_call_output":
            return {**head, "call_id": self.call_id, "output": self.text}
        if self.is_spoken:
            content: list[dict[str, Any]] = [{"type": "input_audio", "transcript": self.text}]
        else:
            kind = "output_text" if self.role == "assistant" else "input_text"
            content = [{"type": kind, "text": self.text}]
        return {**head, "role": self.role, "content": content}


class Conversation:
    """Items by their ids; `MAX_ITEMS` at most."""

    def __init__(self) -> None:
        self.id = new_id("conv")
        self._items: list[Item] = []

    def make_room(self) -> None:
        """Forgets the oldest item if there is no room for another."""
        if len(self._items) >= MAX_ITEMS:
            del self._items[0]

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

    @property
    def items(self) -> Sequence[Item]:
        return self._items

    def _place(self, id: str, field: str) -> int:
        for place, item in enumerate(self._items):
            if item.id == id:
                return place
        raise HttpError(f"{field}: there is no item {id[:64]!r}", field, code="item_not_found")
