"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.request import CompletionOutput, RequestOutput
from octavo.server.admission import named
from octavo.server.answering import begin, usage_json
from octavo.server.body import read_body
from octavo.server.chatting import ChatWriter
from octavo.server.items import Item, ItemWriter, arguments_of, as_chat
from octavo.server.protocol.answers import InputTokens, MessageAnswer, MessageErrorAnswer
from octavo.server.protocol.messages import NAMES, CountRequest, MessagesRequest
from octavo.server.schema import endpoint
from octavo.server.sse import EventStream, event
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer, dumps

router = APIRouter(tags=["messages"])
SIGNATURE = "unsigned"  # of thinking, which nothing depends on here


@router.post("/v1/messages", **endpoint(MessagesRequest, MessageAnswer, streams=True, error=MessageErrorAnswer))
async def create_message(request: Request) -> Response:
    """Answers a conversation, as Anthropic's API does."""
    asked = await read_body(request, MessagesRequest, state_of(request).config)
    chat = as_chat(request, *asked.chat(), NAMES)
    return await _Writer(request, chat, await begin(request, chat, _Writer), asked=asked).response()


@router.post("/v1/messages/count_tokens", **endpoint(CountRequest, InputTokens, error=MessageErrorAnswer))
async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation has for the model, with its tools."""
    server = state_of(request)
    asked = await read_body(request, CountRequest, server.config)
    chat = as_chat(request, *asked.chat(), NAMES)
    chat.check()
    (prompt,) = await ChatWriter.read(await named(request, chat.model, "text"), chat)
    return JSONAnswer({"input_tokens": len(prompt.token_ids)})


class _Writer(ItemWriter):
    """A message is a list of blocks; of each a stream tells the begin, the deltas and the end."""

    ID = "msg"
    asked: MessagesRequest

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        thinking = self.asked.thinking
        self._hides_thinking = thinking is not None and thinking.display == "omitted"

    async def response(self) -> Response:
        return EventStream(self.events(), done=b"") if self.body.stream else JSONAnswer(await self.whole())

    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        return self._message([self._block(item) for item in self.items], self._stop(completion))

    def start(self, output: RequestOutput) -> Iterator[bytes]:
        nothing = {"stop_reason": None, "stop_sequence": None}
        yield _event("message_start", message=self._message([], nothing))
        yield _event("ping")

    def open(self, item: Item) -> Iterator[bytes]:
        empty = self._block(Item(item.index, item.kind, item.call_id, item.name))
        yield _event("content_block_start", index=item.index, content_block={**empty, **_EMPTY[item.kind]})

    def grow(self, item: Item, text: str) -> Iterator[bytes]:
        if text and not (self._hides_thinking and item.kind == "thinking"):
            kind, name = _DELTAS[item.kind]
            yield _event("content_block_delta", index=item.index, delta={"type": kind, name: text})

    def close(self, item: Item, is_cut: bool) -> Iterator[bytes]:
        if item.kind == "thinking":
            signature = {"type": "signature_delta", "signature": SIGNATURE}
            yield _event("content_block_delta", index=item.index, delta=signature)
        yield _event("content_block_stop", index=item.index)

    def end(self, completion: CompletionOutput) -> Iterator[bytes]:
        yield _event("message_delta", delta=self._stop(completion), usage=self._usage_json())
        yield _event("message_stop")

    def _message(self, blocks: list[dict[str, Any]], stop: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model_name,
            "content": blocks,
            **stop,
            "usage": self._usage_json(),
        }

    def _block(self, item: Item) -> dict[str, Any]:
        if item.kind == "text":
            return {"type": "text", "text": item.text, "citations": None}
        if item.kind == "thinking":
            return {
                "type": "thinking",
                "thinking": "" if self._hides_thinking else item.text,
                "signature": SIGNATURE,
            }
        return {"type": "tool_use", "id": item.call_id, "name": item.name, "input": arguments_of(item)}

    def _stop(self, completion: CompletionOutput) -> dict[str, Any]:
        sequence = completion.stop_reason if isinstance(completion.stop_reason, str) else None
        reason = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
        why = reason[self.finish_reason(0, completion) or "stop"]
        if why == "max_tokens" and self.generation.num_output_tokens < self.asked.max_tokens:
            why = "model_context_window_exceeded"
        return {"stop_reason": why if sequence is None else "stop_sequence", "stop_sequence": sequence}

    def _usage_json(self) -> dict[str, Any]:
        """Anthropic counts cached tokens apart from the others of the prompt."""
        usage = usage_json(self.generation)
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
        }


_EMPTY: dict[str, dict[str, Any]] = {"thinking": {"signature": ""}, "text": {}, "call": {}}
_DELTAS = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}


def _event(kind: str, **fields: Any) -> bytes:
    return event(dumps({"type": kind, **fields}), kind)
