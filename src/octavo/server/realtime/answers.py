"""Answers of a session, in text and calls of tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.websockets import WebSocketDisconnect

from octavo.request import CompletionOutput, RequestOutput
from octavo.server import items
from octavo.server.answering import begin
from octavo.server.errors import ClientGoneError, HttpError
from octavo.server.generation import Generation
from octavo.server.items import ItemWriter, as_chat
from octavo.server.protocol.realtime import AnswerParams, ConversationSession, ItemReference, Json
from octavo.server.protocol.responses import chat_choice, chat_tool
from octavo.server.protocol.translation import Conversation as Chat
from octavo.server.realtime.channel import Channel, event, told
from octavo.server.realtime.conversation import Conversation, Item, new_id
from octavo.server.realtime.jobs import Job
from octavo.server.state import ServerState

NAMES = ((r"messages\[\d+\]", "conversation"), (r"messages", "conversation"), (r"max_tokens", "max_output_tokens"))


class AnswerWriter(ItemWriter):
    """Writes the events of an answer's items, which become the conversation's if it `joins` that.

    What the model thinks is not told.
    """

    ID = "resp"

    def __init__(self, request: Request, *args: Any, response_id: str, conversation: Conversation, joins: bool):
        super().__init__(request, *args, asked=None)
        self.told: list[Item] = []
        self._response_id, self._conversation, self._joins = response_id, conversation, joins

    def cut(self) -> Iterator[bytes]:
        """What is to be told of an item in which the answer had to end."""
        yield from self._close(True)

    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> Json:
        raise AssertionError("answers of sessions are streams")

    def start(self, output: RequestOutput) -> Iterator[bytes]:
        yield from ()

    def open(self, item: items.Item) -> Iterator[bytes]:
        if item.kind == "thinking":
            return
        call: Json = (
            {"kind": "function_call", "name": item.name, "call_id": item.call_id} if item.kind == "call" else {}
        )
        self.told.append(Item("assistant", "", status="in_progress", **call))
        shown = self.told[-1].json()
        if item.kind == "text":
            shown["content"] = []
        yield event("response.output_item.added", **self._place(), item=shown)
        if self._joins:
            before = self._conversation.add(self.told[-1])
            for kind in ("added", "created"):
                yield event(f"conversation.item.{kind}", previous_item_id=before, item=shown)
        if item.kind == "text":
            yield self._part("added", "")

    def grow(self, item: items.Item, text: str) -> Iterator[bytes]:
        if item.kind != "thinking" and text:
            self.told[-1].text = item.text
            yield self._of(item, "delta", delta=text)

    def close(self, item: items.Item, is_cut: bool) -> Iterator[bytes]:
        if item.kind == "thinking":
            return
        self.told[-1].status = "incomplete" if is_cut else "completed"
        if item.kind == "text":
            yield self._of(item, "done", text=item.text)
            yield self._part("done", item.text)
        else:
            yield self._of(item, "done", name=item.name, arguments=item.text)
        done = self.told[-1].json()
        yield event("response.output_item.done", **self._place(), item=done)
        if self._joins:
            yield event("conversation.item.done", item=done)

    def end(self, completion: CompletionOutput) -> Iterator[bytes]:
        if not self.told:  # an answer has a message, even if it says nothing
            yield from self._open(items.Item(len(self.items), "text"))
            yield from self._close(False)

    def _place(self) -> Json:
        return {"response_id": self._response_id, "output_index": len(self.told) - 1}

    def _part(self, kind: str, text: str) -> bytes:
        part = {"type": "text", "text": text}
        where = {**self._place(), "item_id": self.told[-1].id, "content_index": 0}
        return event(f"response.content_part.{kind}", **where, part=part)

    def _of(self, item: items.Item, kind: str, **fields: str) -> bytes:
        is_text = item.kind == "text"
        name = "output_text" if is_text else "function_call_arguments"
        where = {**self._place(), "item_id": self.told[-1].id}
        more = {"content_index": 0} if is_text else {"call_id": item.call_id}
        return event(f"response.{name}.{kind}", **where, **more, **fields)


class AnswerJob(Job):
    """Answers a conversation. `cancel` may come at any time."""

    def __init__(
        self,
        server: ServerState,
        channel: Channel,
        conversation: Conversation,
        settings: ConversationSession,
        params: AnswerParams,
    ):
        super().__init__(server, channel)
        self.id = new_id("resp")
        self.is_over = False
        self._conversation, self._settings, self._params = conversation, settings, params
        self._given = {**settings.model_dump(exclude_none=True), **params.model_dump(exclude_none=True)}
        self._joins = params.conversation != "none"
        self._generation: Generation | None = None
        self._writer: AnswerWriter | None = None
        self._status: Json = {"status": "in_progress", "status_details": None}

    def cancel(self, reason: str) -> None:
        """What was written stays. `reason` is client_cancelled or turn_detected."""
        if not self.is_over:
            self._end("cancelled", reason=reason)
            if self._generation is not None:
                self._generation.fail(ClientGoneError("the response was cancelled"))

    async def run(self) -> None:
        await self._channel.send("response.created", response=self._json())
        try:
            if not self.is_over:
                await self._answer()
        except WebSocketDisconnect:
            raise
        except Exception as error:
            if not self.is_over:
                self._end("failed", error=told(error))
        for last in self._writer.cut() if self._writer is not None else ():
            await self._channel.forward(last)
        await self._channel.send("response.done", response=self._json())

    async def _answer(self) -> None:
        """Raises OctavoError."""
        request = self.request()
        body = self._body(request)
        generation = self._generation = await begin(request, body, AnswerWriter)
        context: Json = {"response_id": self.id, "conversation": self._conversation, "joins": self._joins}
        writer = self._writer = AnswerWriter(request, body, generation, **context)
        async with generation:
            async for _, output in generation.outputs():
                (completion,) = output.outputs
                for piece in writer.chunks(0, output, completion):
                    await self._channel.forward(piece)
                if self.is_over:
                    break
                if completion.finish_reason == "length":
                    self._end("incomplete", reason="max_output_tokens")
                elif completion.finish_reason is not None:
                    self._end("completed")

    def _body(self, request: Request) -> Any:
        """The conversation as a chat completion would be asked for. Raises HttpError."""
        given, chat = self._given, Chat()
        if instructions := given.get("instructions"):
            chat.say("system", [instructions], "instructions")
        for item in self._conversation.items if self._params.input is None else self._items():
            item.say(chat)
        if not chat.messages:
            raise HttpError("there is no message to answer: send conversation.item.create", code="no_messages")
        limit, tools = given.get("max_output_tokens"), self._params.tools or self._settings.tools
        choice = self._params.tool_choice or self._settings.tool_choice
        fields = {
            **{"model": self._settings.model, "messages": chat.messages, "stream": True},
            "temperature": given.get("temperature"),
            "max_tokens": limit if isinstance(limit, int) else None,
            "tools": [chat_tool(tool) for tool in tools or ()] or None,
            "tool_choice": chat_choice(choice) if tools else None,
            "parallel_tool_calls": given.get("parallel_tool_calls") if tools else None,
        }
        return as_chat(request, fields, chat.places, NAMES)

    def _items(self) -> list[Item]:
        """Those of the event's own `input`. Raises HttpError."""
        return [
            self._conversation.find(one.id, "input") if isinstance(one, ItemReference) else Item.of(one)
            for one in self._params.input or ()
        ]

    def _end(self, status: str, **details: Any) -> None:
        self.is_over = True
        self._status = {"status": status, "status_details": {"type": status, **details}}

    def _json(self) -> Json:
        output = self._writer.told if self._writer is not None else ()
        return {
            **{"id": self.id, "object": "realtime.response", **self._status},
            "output": [item.json() for item in output],
            "conversation_id": self._conversation.id if self._joins else None,
            "output_modalities": ["text"],
            "max_output_tokens": self._given.get("max_output_tokens", "inf"),
            "metadata": self._params.metadata,
            "usage": self._usage(),
        }

    def _usage(self) -> Json | None:
        if (generation := self._generation) is None or not self.is_over:
            return None
        read, written = generation.num_prompt_tokens, generation.num_output_tokens
        cached = generation.num_cached_tokens
        return {
            **{"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
            "input_token_details": {"text_tokens": read, "audio_tokens": 0, "cached_tokens": cached},
            "output_token_details": {"text_tokens": written, "audio_tokens": 0},
        }
