"""POST /v1/chat/completions and /v1/chat/completions/batch."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.request import CompletionOutput, RequestOutput
from octavo.server.body import read_body
from octavo.server.generation import Generation, admit
from octavo.server.protocol.answers import ChatBatchCompletion, ChatCompletion
from octavo.server.protocol.chat import ChatBatchRequest, ChatFields, ChatRequest, LogprobsWriter
from octavo.server.protocol.completions import prompt_logprobs_json
from octavo.server.schema import endpoint
from octavo.server.sse import EventStream
from octavo.server.state import state_of
from octavo.server.writing import FINGERPRINT, ChunkWriter, JSONAnswer, dumps, new_id, usage_json

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", **endpoint(ChatRequest, ChatCompletion, streams=True))
async def create_chat_completion(request: Request) -> Response:
    """Answers a conversation."""
    body = await read_body(request, ChatRequest, state_of(request).config)
    writer = await _begin(request, body)
    return EventStream(writer.events()) if body.stream else JSONAnswer(await writer.whole())


@router.post("/v1/chat/completions/batch", **endpoint(ChatBatchRequest, ChatBatchCompletion))
async def create_chat_batch(request: Request) -> Response:
    """Answers several conversations; choice i is the answer to conversation i."""
    body = await read_body(request, ChatBatchRequest, state_of(request).config)
    return JSONAnswer(await (await _begin(request, body)).whole())


async def _begin(request: Request, body: ChatFields) -> _Writer:
    server = state_of(request)
    body.check()
    model = server.models.find(body.model, "text")
    conversations = body.conversations
    server.config.check_prompts("messages", len(conversations))
    admit(server, model, request, len(conversations))
    params = body.params(model.engine.model)
    options = body.template_options()
    read = [await model.read_chat([message.plain() for message in messages], **options) for messages in conversations]
    prompts = [prompt.extended(cache_salt=body.cache_salt) for prompt in read]
    generation = Generation(server, model, request, prompts, params, body.asked_tokens, body.priority)
    return _Writer(new_id("chatcmpl", request, body.request_id), body, generation, server.config.response_role)


class _Writer:
    """The answer to one request, as a stream or in one piece. Choices are numbered over all conversations."""

    def __init__(self, answer_id: str, body: ChatFields, generation: Generation, role: str):
        self._id, self._body, self._generation = answer_id, body, generation
        self._model = body.model or generation.model.id
        lasts = [messages[-1] for messages in body.conversations]
        self._roles = [role if body.generation_prompt else last.role for last in lasts]
        self._echoes = [
            last.text if body.echo and last.role == role else "" for last, role in zip(lasts, self._roles, strict=True)
        ]
        tokenizer = generation.model.engine.model.tokenizer
        self._logprobs = LogprobsWriter(tokenizer, body.top_logprobs or 0, bool(body.return_tokens_as_token_ids))

    async def whole(self) -> dict[str, Any]:
        async with self._generation as generation:
            outputs = await generation.finished()
        is_batch = isinstance(self._body, ChatBatchRequest)
        prompts = [self._prompt(output) for output in outputs]
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [
                self._choice(place, completion) | (prompts[place] if is_batch else {})
                for place, output in enumerate(outputs)
                for completion in output.outputs
            ],
            "usage": usage_json(self._generation),
            "system_fingerprint": FINGERPRINT,
            **({} if is_batch else prompts[0]),
        }

    async def events(self) -> AsyncIterator[bytes]:
        """The chunks: the role, what is new of each choice, and its end; then the usage."""
        body = self._body
        async with self._generation as generation:
            usage, running = body.includes_usage, body.continuous_usage
            writer = ChunkWriter(self._id, "chat.completion.chunk", self._model, generation, usage, running)
            async for chunks in writer.with_usage(self._chunks(writer)):
                yield chunks

    async def _chunks(self, writer: ChunkWriter) -> AsyncIterator[bytes]:
        open_choices = set(range(self._generation.params.n))
        begun: set[int] = set()
        async for _, output in self._generation.outputs():
            chunks = []
            for completion in output.outputs:
                index = completion.index
                if index not in open_choices:
                    continue
                if index not in begun:
                    chunks.append(writer.chunk(self._first(index), b"" if begun else self._prompt_ids(output)))
                    begun.add(index)
                    if self._echoes[0]:
                        chunks.append(writer.chunk(_delta(index, self._echoes[0])))
                if completion.text or completion.logprobs or (self._body.return_token_ids and completion.token_ids):
                    chunks.append(writer.chunk(self._next(completion)))
                if completion.finish_reason is not None:
                    open_choices.discard(index)
                    chunks.append(writer.chunk(_end(completion)))
            if chunks:
                yield b"".join(chunks)

    def _choice(self, place: int, completion: CompletionOutput) -> dict[str, Any]:
        content = self._echoes[place] + completion.text
        return {
            "index": place * self._generation.params.n + completion.index,
            "message": {"role": self._roles[place], "content": content, "refusal": None},
            "logprobs": None if completion.logprobs is None else self._logprobs.write(completion.logprobs),
            "finish_reason": completion.finish_reason,
            "stop_reason": completion.stop_reason,
            "token_ids": completion.token_ids if self._body.return_token_ids else None,
        }

    def _prompt(self, output: RequestOutput) -> dict[str, Any]:
        """What is told of a prompt."""
        return {
            "prompt_logprobs": prompt_logprobs_json(output.prompt_logprobs),
            "prompt_token_ids": output.prompt_token_ids if self._body.return_token_ids else None,
        }

    def _prompt_ids(self, output: RequestOutput) -> bytes:
        return b',"prompt_token_ids":' + dumps(output.prompt_token_ids) if self._body.return_token_ids else b""

    def _first(self, index: int) -> bytes:
        return dumps(
            {
                "index": index,
                "delta": {"role": self._roles[0], "content": ""},
                "logprobs": None,
                "finish_reason": None,
            }
        )

    def _next(self, completion: CompletionOutput) -> bytes:
        logprobs = b"null" if completion.logprobs is None else dumps(self._logprobs.write(completion.logprobs))
        more = b',"token_ids":' + dumps(completion.token_ids) if self._body.return_token_ids else b""
        return _delta(completion.index, completion.text, logprobs, more)


def _delta(index: int, text: str, logprobs: bytes = b"null", more: bytes = b"") -> bytes:
    return b'{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":null%b}' % (
        index,
        dumps(text),
        logprobs,
        more,
    )


def _end(completion: CompletionOutput) -> bytes:
    return dumps(
        {
            "index": completion.index,
            "delta": {},
            "logprobs": None,
            "finish_reason": completion.finish_reason,
            "stop_reason": completion.stop_reason,
        }
    )
