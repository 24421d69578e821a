"""Requests of other APIs as chat completions: how a conversation becomes messages, and what fields are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from octavo.server.protocol.chat import ChatRequest

Json = dict[str, Any]
Names = Sequence[tuple[str, str]]  # patterns of a chat completion's fields, and what they are called elsewhere


class OpenEndedChat(ChatRequest):
    """A conversation whose answer is cut where the context ends, if that comes before its limit."""

    IS_CUT_BY_CONTEXT: ClassVar[bool] = True


class Conversation:
    """The messages of a chat completion, and the place in the request that each of them comes from.

    What an assistant says, thinks and calls in a row is one message, as chat templates want it.
    """

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self.places: list[str] = []

    def say(self, role: str, texts: Sequence[str], place: str, joins: bool = False) -> None:
        """A message of several texts; it goes on with one of its role before it, if it `joins` that."""
        parts = [{"type": "text", "text": text} for text in texts]
        message = self._assistant(place) if role == "assistant" else self._last(role) if joins else None
        if message is None:
            message = self._begin(role, place)
        message["content"] = [*(message.get("content") or []), *parts]

    def think(self, text: str, place: str) -> None:
        message = self._assistant(place)
        message["reasoning"] = "\n".join(filter(None, (message.get("reasoning"), text)))

    def call(self, id: str, name: str, arguments: str, place: str) -> None:
        """The assistant calls a tool; `arguments` is JSON."""
        call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._assistant(place).setdefault("tool_calls", []).append(call)

    def answer_call(self, id: str, texts: Sequence[str], place: str) -> None:
        """What came of a call."""
        self._begin("tool", place).update(tool_call_id=id, content="\n".join(texts))

    @property
    def ends_with_assistant(self) -> bool:
        return self._last("assistant") is not None

    def _last(self, role: str) -> Json | None:
        return self.messages[-1] if self.messages and self.messages[-1]["role"] == role else None

    def _assistant(self, place: str) -> Json:
        last = self._last("assistant")
        return self._begin("assistant", place) if last is None else last

    def _begin(self, role: str, place: str) -> Json:
        self.messages.append({"role": role, "content": None})
        self.places.append(place)
        return self.messages[-1]
