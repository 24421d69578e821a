"""An answer of the Responses API: its items, the events of a stream, and the object that is kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from octavo.request import CompletionOutput, RequestOutput
from octavo.server.answering import usage_json
from octavo.server.dialects import error_json
from octavo.server.errors import ClientGoneError, HttpError
from octavo.server.items import Item, ItemWriter, new_id
from octavo.server.protocol.logprobs import ChatLogprobs
from octavo.server.protocol.responses import ResponsesRequest
from octavo.server.response_context import Context
from octavo.server.sse import EventStream, event, note_failure
from octavo.server.writing import JSONAnswer, dumps

Json = dict[str, Any]
_PREFIXES = {"thinking": "rs", "text": "msg", "call": "fc"}
_DELTAS = {
    "thinking": "response.reasoning_text",
    "text": "response.output_text",
    "call": "response.function_call_arguments",
}


class CancelledError(HttpError):
    """A response in the background was cancelled."""

    code = "cancelled"


class ResponseWriter(ItemWriter):
    """Writes a response, and keeps it if it is to be stored.

    `log` has the events of a stream in the background, by their numbers.
    """

    ID = "resp"
    asked: ResponsesRequest

    def __init__(self, request: Request, *args: Any, asked: ResponsesRequest, context: Context):
        super().__init__(request, *args, asked=asked)
        self._scope, self._context = request.scope, context
        self._created = time.time()
        self.num_events = 0
        self.log: list[bytes] = []
        self._ended: Json = {}  # the whole answer
        self._done: list[Json] = []  # items that have ended
        self._logprobs = ChatLogprobs(self.tokenizer, asked.top_logprobs, self.body)
        self._untold: list[Json] = []  # log-probabilities of tokens that no delta has told yet
        self._told: list[Json] = []  # those of the text that is open

    async def response(self) -> Response:
        return EventStream(self.events(), done=b"") if self.body.stream else JSONAnswer(await self.whole())

    async def whole(self) -> Json:
        response = await super().whole()
        await self._context.keep(response)
        return response

    async def events(self) -> AsyncIterator[bytes]:
        """The events of a stream. Whatever becomes of it once it has begun is told by the last one."""
        try:
            async for piece in super().events():
                yield piece
        except CancelledError:
            await self._context.keep(self.object("cancelled"))
            return
        except Exception as error:
            if isinstance(error, ClientGoneError) or not (self.num_events or self.asked.background):
                raise
            note_failure(error)
            last = self.object("failed", error=self._failure(error))
        else:
            last = self._ended
        await self._context.keep(last)
        yield self._event(f"response.{last['status']}", response=last)

    def cancel(self) -> None:
        """Ends it."""
        self.generation.fail(CancelledError("the response was cancelled"))

    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> Json:
        return self._ended

    def chunks(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Iterator[bytes]:
        if self.asked.wants_logprobs and completion.logprobs:
            self._untold += self._logprobs.write(completion.logprobs)["content"]
        yield from super().chunks(index, output, completion)

    def start(self, output: RequestOutput) -> Iterator[bytes]:
        status = "queued" if self.asked.background else "in_progress"
        yield self._event("response.created", response=self.object(status))
        if self.asked.background:
            yield self._event("response.queued", response=self.object(status))
        yield self._event("response.in_progress", response=self.object("in_progress"))

    def open(self, item: Item) -> Iterator[bytes]:
        item.id = new_id(_PREFIXES[item.kind])
        self._told = []
        empty = self._item(item, "in_progress")
        part = empty.get("content", [None])[0]
        if part is not None:
            empty["content"] = []
        yield self._event("response.output_item.added", output_index=item.index, item=empty)
        if part is not None:
            yield self._of(item, "response.content_part.added", part=part)

    def grow(self, item: Item, text: str) -> Iterator[bytes]:
        if text:
            yield self._of(item, f"{_DELTAS[item.kind]}.delta", delta=text, **self._take_logprobs(item))

    def close(self, item: Item, is_cut: bool) -> Iterator[bytes]:
        self._take_logprobs(item)
        done = self._item(item, "incomplete" if is_cut else "completed")
        if item.kind == "call":
            yield self._of(item, f"{_DELTAS['call']}.done", name=item.name, arguments=item.text)
        else:
            logprobs = {"logprobs": self._told} if item.kind == "text" else {}
            yield self._of(item, f"{_DELTAS[item.kind]}.done", text=item.text, **logprobs)
            yield self._of(item, "response.content_part.done", part=done["content"][0])
        yield self._event("response.output_item.done", output_index=item.index, item=done)
        self._done.append(done)

    def end(self, completion: CompletionOutput) -> Iterator[bytes]:
        if not self.items:  # an answer has a message, even if it says nothing
            yield from self._open(Item(0, "text"))
            yield from self._close(False)
        is_cut = completion.finish_reason == "length"
        why = {"incomplete_details": {"reason": "max_output_tokens"}} if is_cut else {"completed_at": time.time()}
        self._ended = self.object("incomplete" if is_cut else "completed", usage=self._usage_json(), **why)

    def object(self, status: str, **more: Any) -> Json:
        """The response as it is now."""
        asked, params = self.asked, self.generation.params
        same = (
            "instructions",
            "max_output_tokens",
            "max_tool_calls",
            "previous_response_id",
            "safety_identifier",
            "user",
        )
        given = asked.model_dump(
            include={"tools", "tool_choice", "text", "reasoning"}, exclude_none=True, by_alias=True
        )
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": bool(asked.background),
            "error": None,
            "incomplete_details": None,
            "model": self.model_name,
            "output": list(self._done),
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "conversation": {"id": self._context.conversation} if self._context.conversation else None,
            **{name: getattr(asked, name) for name in same},
            "reasoning": {"effort": None, "summary": None, **given.get("reasoning", {})},
            "service_tier": "default",
            "store": asked.store is not False,
            "temperature": params.temperature,
            "text": {"format": {"type": "text"}, "verbosity": "medium", **given.get("text", {})},
            "tool_choice": given.get("tool_choice", "auto"),
            "tools": [{"parameters": None, "strict": None, **tool} for tool in given.get("tools", ())],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": asked.metadata or {},
            **more,
        }

    def _item(self, item: Item, status: str) -> Json:
        """An item of the answer."""
        head = {"id": item.id, "status": status}
        if item.kind == "thinking":
            content = [{"type": "reasoning_text", "text": item.text}]
            return {**head, "type": "reasoning", "summary": [], "content": content, "encrypted_content": None}
        if item.kind == "text":
            part = {"type": "output_text", "text": item.text, "annotations": [], "logprobs": self._told}
            return {**head, "type": "message", "role": "assistant", "content": [part]}
        return {**head, "type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": item.text}

    def _take_logprobs(self, item: Item) -> Json:
        """What a delta says of its tokens. Those of thinking and of calls are not told."""
        if item.kind != "text":
            self._untold = []
            return {}
        taken, self._untold = self._untold, []
        self._told = [*self._told, *taken]
        return {"logprobs": taken}

    def _failure(self, error: Exception) -> Json:
        told = error_json(error, self._scope)["error"]
        return {"code": "server_error", "message": told["message"]}

    def _usage_json(self) -> Json:
        usage = usage_json(self.generation)
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {
                "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                "cache_write_tokens": 0,
            },
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
            "total_tokens": usage["total_tokens"],
        }

    def _of(self, item: Item, kind: str, **fields: Any) -> bytes:
        """An event about a part of an item."""
        place = {} if item.kind == "call" else {"content_index": 0}
        return self._event(kind, item_id=item.id, output_index=item.index, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        told = event(dumps({"type": kind, "sequence_number": self.num_events, **fields}), kind)
        self.num_events += 1
        if self.asked.background:
            self.log.append(told)
        return told
