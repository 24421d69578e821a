"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.request import CompletionOutput
from octavo.server.body import read_body
from octavo.server.generation import Generation, admit
from octavo.server.protocol.answers import ChatCompletion
from octavo.server.protocol.chat import ChatRequest, logprobs_json
from octavo.server.protocol.completions import prompt_logprobs_json
from octavo.server.schema import endpoint
from octavo.server.sse import EventStream
from octavo.server.state import state_of
from octavo.server.writing import FINGERPRINT, ChunkWriter, JSONAnswer, dumps, new_id, usage_json

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", **endpoint(ChatRequest, ChatCompletion, streams=True))
async def create_chat_completion(request: Request) -> Response:
    """Answers a conversation."""
    server = state_of(request)
    body = await read_body(request, ChatRequest, server.config)
    body.check()
    model = server.models.find(body.model, "text")
    admit(server, model, request, 1)
    params = body.params(model.engine.model)
    prompt = await model.read_chat(
        body.conversation(),
        add_generation_prompt=body.generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        documents=body.documents,
        template_kwargs=body.chat_template_kwargs,
    )
    prompt = prompt.salted(body.cache_salt)
    generation = Generation(server, model, request, [prompt], params, body.asked_tokens, body.priority)
    writer = _Writer(new_id("chatcmpl", request, body.request_id), body, generation, server.config.response_role)
    if body.stream:
        return EventStream(writer.events())
    return JSONAnswer(await writer.whole())


class _Writer:
    """The answer to one request, as a stream or in one piece."""

    def __init__(self, answer_id: str, body: ChatRequest, generation: Generation, role: str):
        self._id, self._body, self._generation = answer_id, body, generation
        self._model = body.model or generation.model.id
        last = body.messages[-1].role
        self._role = role if body.generation_prompt else last
        self._tokenizer = generation.model.engine.model.tokenizer

    async def whole(self) -> dict[str, Any]:
        async with self._generation as generation:
            (output,) = await generation.finished()
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [self._choice(completion) for completion in output.outputs],
            "usage": usage_json(self._generation),
            "system_fingerprint": FINGERPRINT,
            "prompt_logprobs": prompt_logprobs_json(output.prompt_logprobs),
        }

    async def events(self) -> AsyncIterator[bytes]:
        """The chunks: the role, what is new of each choice, and its end; then the usage."""
        body, open_choices = self._body, set(range(self._generation.params.n))
        async with self._generation as generation:
            usage, running = body.includes_usage, body.continuous_usage
            writer = ChunkWriter(self._id, "chat.completion.chunk", self._model, generation, usage, running)
            begun: set[int] = set()
            async for _, output in generation.outputs():
                chunks = []
                for completion in output.outputs:
                    if completion.index not in open_choices:
                        continue
                    if completion.index not in begun:
                        begun.add(completion.index)
                        chunks.append(writer.chunk(self._first(completion.index)))
                    if completion.text or completion.logprobs:
                        chunks.append(writer.chunk(self._delta(completion)))
                    if completion.finish_reason is not None:
                        open_choices.discard(completion.index)
                        chunks.append(writer.chunk(_end(completion)))
                if chunks:
                    yield b"".join(chunks)
            if last := writer.last():
                yield last

    def _choice(self, completion: CompletionOutput) -> dict[str, Any]:
        return {
            "index": completion.index,
            "message": {"role": self._role, "content": completion.text, "refusal": None},
            "logprobs": self._logprobs(completion),
            "finish_reason": completion.finish_reason,
            "stop_reason": completion.stop_reason,
        }

    def _first(self, index: int) -> bytes:
        return dumps(
            {
                "index": index,
                "delta": {"role": self._role, "content": ""},
                "logprobs": None,
                "finish_reason": None,
            }
        )

    def _delta(self, completion: CompletionOutput) -> bytes:
        logprobs = b"null" if completion.logprobs is None else dumps(self._logprobs(completion))
        return b'{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":null}' % (
            completion.index,
            dumps(completion.text),
            logprobs,
        )

    def _logprobs(self, completion: CompletionOutput) -> dict[str, Any] | None:
        if completion.logprobs is None:
            return None
        return logprobs_json(completion.logprobs, self._body.top_logprobs or 0, self._tokenizer)


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
