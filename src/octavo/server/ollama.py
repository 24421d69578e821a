"""Answers of Ollama's API, in one piece or as lines of JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from octavo.request import CompletionOutput, Prompt, RequestOutput
from octavo.server.answering import Writer
from octavo.server.generation import Generation
from octavo.server.instance import ModelInstance
from octavo.server.items import Item, ItemWriter, arguments_of
from octavo.server.protocol.completions import CompletionRequest
from octavo.server.protocol.logprobs import ChatLogprobs
from octavo.server.protocol.ollama import OllamaFields
from octavo.server.sse import LineStream
from octavo.server.writing import JSONAnswer, dumps

Json = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def line(model: str | None, **fields: Any) -> bytes:
    """A line of a stream."""
    return dumps({"model": model, "created_at": now(), **fields}) + b"\n"


def ending(generation: Generation, output: RequestOutput, completion: CompletionOutput) -> Json:
    """What the last line of an answer tells; times are in nanoseconds."""
    times = output.metrics
    assert times is not None
    ended = times.finished_time or time.monotonic()
    first = times.first_token_time or ended
    return {
        "done": True,
        "done_reason": completion.finish_reason,
        "total_duration": _nanoseconds(ended - times.arrival_time),
        "load_duration": 0,
        "prompt_eval_count": generation.num_prompt_tokens,
        "prompt_eval_duration": _nanoseconds(first - times.arrival_time),
        "eval_count": generation.num_output_tokens,
        "eval_duration": _nanoseconds(ended - first),
    }


class OllamaChatWriter(ItemWriter):
    """A message: its thinking and its text grow, calls come whole."""

    ID = "ollama"
    asked: OllamaFields

    def __init__(self, request: Request, *args: Any, asked: OllamaFields):
        super().__init__(request, *args, asked=asked)
        self._logprobs = ChatLogprobs(self.tokenizer, asked.top_logprobs, self.body)
        self._new_logprobs: list[Json] = []  # of tokens that no line has told yet

    async def response(self) -> Response:
        return LineStream(self.events()) if self.body.stream else JSONAnswer(await self.whole())

    def content(self, text: str = "", **more: Any) -> Json:
        """Where a line has its text, and `thinking` or `tool_calls`."""
        return {"message": {"role": "assistant", "content": text, **more}}

    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> Json:
        texts = {kind: "".join(item.text for item in self.items if item.kind == kind) for kind in ("text", "thinking")}
        more: Json = {"thinking": texts["thinking"]} if texts["thinking"] else {}
        if calls := [_call(item) for item in self.items if item.kind == "call"]:
            more["tool_calls"] = calls
        logprobs = {"logprobs": self._told(completion)} if completion.logprobs else {}
        content = self.content(texts["text"], **more)
        ended = ending(self.generation, output, completion)
        return {"model": self.model_name, "created_at": now(), **content, **logprobs, **ended}

    def chunks(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Iterator[bytes]:
        self._output = output
        if completion.logprobs:
            self._new_logprobs += self._told(completion)
        yield from super().chunks(index, output, completion)

    def start(self, output: RequestOutput) -> Iterator[bytes]:
        yield from ()

    def open(self, item: Item) -> Iterator[bytes]:
        yield from ()

    def grow(self, item: Item, text: str) -> Iterator[bytes]:
        if text and item.kind != "call":
            yield self._line(self.content(text) if item.kind == "text" else self.content(thinking=text))

    def close(self, item: Item, is_cut: bool) -> Iterator[bytes]:
        if item.kind == "call":
            yield self._line(self.content(tool_calls=[_call(item)]))

    def end(self, completion: CompletionOutput) -> Iterator[bytes]:
        yield line(self.model_name, **self.content(), **ending(self.generation, self._output, completion))

    def _line(self, content: Json) -> bytes:
        logprobs, self._new_logprobs = self._new_logprobs, []
        return line(self.model_name, **content, done=False, **({"logprobs": logprobs} if logprobs else {}))

    def _told(self, completion: CompletionOutput) -> list[Json]:
        told: list[Json] = self._logprobs.write(completion.logprobs or [])["content"]
        return told


class OllamaGenerateWriter(OllamaChatWriter):
    """The answer to one prompt."""

    def content(self, text: str = "", **more: Any) -> Json:
        return {"response": text, **more}


class OllamaRawWriter(Writer[CompletionRequest]):
    """The continuation of a text."""

    ID, WHOLE, CHUNK = "ollama", "", ""

    @staticmethod
    async def read(model: ModelInstance, body: CompletionRequest) -> list[Prompt]:
        assert isinstance(body.prompt, str)
        return await model.read_texts([body.prompt])

    async def response(self) -> Response:
        return LineStream(self.events()) if self.body.stream else JSONAnswer(await self.whole())

    async def whole(self) -> Json:
        async with self.generation as generation:
            (output,) = await generation.finished()
        return self.choice(0, output, output.outputs[0])

    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> Json:
        ended = ending(self.generation, output, completion)
        return {"model": self._model, "created_at": now(), "response": completion.text, **ended}

    def chunks(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Iterator[bytes]:
        if completion.text:
            yield line(self._model, response=completion.text, done=False)
        if completion.finish_reason is not None:
            yield line(self._model, response="", **ending(self.generation, output, completion))

    @property
    def _model(self) -> str:
        return self.body.model or self.generation.model.id


def _call(item: Item) -> Json:
    return {"id": item.call_id, "function": {"name": item.name, "arguments": arguments_of(item)}}


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
