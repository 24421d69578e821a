"""Answers of one choice as a row of items, each of one kind: thinking, text, or the call of a tool."""

from __future__ import annotations

import json
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request

from octavo.chat_formats.parts import CallArguments, CallBegin, Content, Part, Reasoning
from octavo.request import CompletionOutput, RequestOutput
from octavo.server.body import validated
from octavo.server.chatting import ChatWriter
from octavo.server.dialects import FieldNames
from octavo.server.protocol.chat import ChatRequest
from octavo.server.protocol.translation import Names, OpenEndedChat


@dataclass(slots=True)
class Item:
    """`text` is what there is of it so far: of a call, its arguments."""

    index: int
    kind: Literal["thinking", "text", "call"]
    call_id: str = ""
    name: str = ""  # of the tool that is called
    text: str = ""
    id: str = ""  # where an API gives it one


def as_chat(request: Request, fields: dict[str, Any], places: Sequence[str], names: Names) -> OpenEndedChat:
    """The chat completion with these fields. Raises HttpError.

    Whatever is wrong with it from here on is told of the request's own fields, by their `names`, and of the `places`
    that its messages come from.
    """
    request.state.names = FieldNames(names, places)
    return validated({name: value for name, value in fields.items() if value is not None}, OpenEndedChat)


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def arguments_of(call: Item) -> dict[str, Any]:
    """The arguments of a call; none, where the answer was cut within them."""
    try:
        found = json.loads(call.text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class ItemWriter(ChatWriter[ChatRequest]):
    """Writes the answers of an API that is not OpenAI's chat completions.

    `asked` is the request as that API has it, `body` the chat completion that was made of it.
    """

    WHOLE = CHUNK = ""

    def __init__(self, request: Request, *args: Any, asked: Any):
        super().__init__(request, *args)
        self.asked = asked
        self.id = new_id(self.ID)
        self.model_name = self.body.model or self.generation.model.id
        self.items: list[Item] = []
        self._is_open = False  # whether more of the last item may come

    @abstractmethod
    def start(self, output: RequestOutput) -> Iterator[bytes]:
        """What a stream begins with."""

    @abstractmethod
    def open(self, item: Item) -> Iterator[bytes]:
        """An item begins."""

    @abstractmethod
    def grow(self, item: Item, text: str) -> Iterator[bytes]:
        """There is more of an item, which has it already."""

    @abstractmethod
    def close(self, item: Item, is_cut: bool) -> Iterator[bytes]:
        """An item ends; it `is_cut` if the answer had to end."""

    @abstractmethod
    def end(self, completion: CompletionOutput) -> Iterator[bytes]:
        """What a stream ends with."""

    def chunks(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Iterator[bytes]:
        if self.begins(index):
            yield from self.start(output)
        for part in self.parts(index, completion):
            yield from self._tell(part)
        if completion.finish_reason is not None:
            yield from self._close(completion.finish_reason == "length")
            yield from self.end(completion)

    async def whole(self) -> dict[str, Any]:
        async with self.generation as generation:
            (output,) = await generation.finished()
        (completion,) = output.outputs
        for _ in self.chunks(0, output, completion):
            pass  # what a stream would say makes the items
        return self.choice(0, output, completion)

    def _tell(self, part: Part) -> Iterator[bytes]:
        match part:
            case Reasoning(text):
                yield from self._more("thinking", text)
            case Content(text):
                yield from self._more("text", text)
            case CallBegin(_, id, name):
                yield from self._open(Item(len(self.items), "call", id, name))
            case CallArguments(_, text):
                yield from self._grow(text)

    def _more(self, kind: Literal["thinking", "text"], text: str) -> Iterator[bytes]:
        if not self._is_open or self.items[-1].kind != kind:
            yield from self._open(Item(len(self.items), kind))
        yield from self._grow(text)

    def _open(self, item: Item) -> Iterator[bytes]:
        yield from self._close(False)
        self.items.append(item)
        self._is_open = True
        yield from self.open(item)

    def _grow(self, text: str) -> Iterator[bytes]:
        item = self.items[-1]
        item.text += text
        yield from self.grow(item, text)

    def _close(self, is_cut: bool) -> Iterator[bytes]:
        if self._is_open:
            self._is_open = False
            yield from self.close(self.items[-1], is_cut)
