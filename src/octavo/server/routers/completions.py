"""POST /v1/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.request import CompletionOutput, Prompt, RequestOutput
from octavo.server.body import read_body
from octavo.server.generation import Generation, admit
from octavo.server.models import ServedModel
from octavo.server.protocol.answers import Completion
from octavo.server.protocol.completions import CompletionRequest, LogprobsWriter, prompt_logprobs_json
from octavo.server.schema import endpoint
from octavo.server.sse import EventStream
from octavo.server.state import state_of
from octavo.server.writing import FINGERPRINT, ChunkWriter, JSONAnswer, dumps, new_id, usage_json

router = APIRouter(tags=["completions"])


@router.post("/v1/completions", **endpoint(CompletionRequest, Completion, streams=True))
async def create_completion(request: Request) -> Response:
    """Continues one prompt or many."""
    server = state_of(request)
    body = await read_body(request, CompletionRequest, server.config)
    body.check()
    model = server.models.find(body.model, "text")
    server.config.check_prompts("prompt", len(body.prompts))
    admit(server, model, request, len(body.prompts))
    params = body.params(model.engine.model)
    prompts = await _read(model, body)
    generation = Generation(server, model, request, prompts, params, body.max_tokens, body.priority)
    writer = _Writer(new_id("cmpl", request, body.request_id), body, generation)
    if body.stream:
        return EventStream(writer.events())
    return JSONAnswer(await writer.whole())


async def _read(model: ServedModel, body: CompletionRequest) -> list[Prompt]:
    """The prompts of a request, which are all texts or all token ids; with `echo`, as texts too."""
    if isinstance(body.prompts[0], str):
        read = await model.read_texts(body.prompts, body.add_special_tokens is not False)  # type: ignore[arg-type]
    else:
        read = [model.read_ids(ids) for ids in body.prompts]  # type: ignore[arg-type]
        if body.echo:
            decode = model.engine.model.tokenizer.decode
            read = [Prompt(decode(prompt.token_ids), prompt.token_ids) for prompt in read]
    return [prompt.extended(cache_salt=body.cache_salt) for prompt in read]


class _Writer:
    """The answer to one request, as a stream or in one piece. Choices are numbered over all prompts."""

    def __init__(self, answer_id: str, body: CompletionRequest, generation: Generation):
        self._id, self._body, self._generation = answer_id, body, generation
        self._model = body.model or generation.model.id
        self._n = generation.params.n
        tokenizer = generation.model.engine.model.tokenizer
        self._logprobs = [
            LogprobsWriter(tokenizer, body.logprobs or 0, bool(body.return_tokens_as_token_ids))
            for _ in range(self._n * len(generation.prompts))
        ]

    async def whole(self) -> dict[str, Any]:
        async with self._generation as generation:
            outputs = await generation.finished()
        if self._body.max_tokens == 0:
            generation.num_output_tokens = [0] * len(outputs)
        return {
            "id": self._id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [
                self._whole_choice(place * self._n + completion.index, output, completion)
                for place, output in enumerate(outputs)
                for completion in output.outputs
            ],
            "usage": usage_json(generation),
            "system_fingerprint": FINGERPRINT,
        }

    async def events(self) -> AsyncIterator[bytes]:
        """What is new of each choice, with its end; then the usage."""
        body = self._body
        async with self._generation as generation:
            usage, running = body.includes_usage, body.continuous_usage
            writer = ChunkWriter(self._id, "text_completion", self._model, generation, usage, running)
            async for chunks in writer.with_usage(self._chunks(writer)):
                yield chunks

    async def _chunks(self, writer: ChunkWriter) -> AsyncIterator[bytes]:
        open_choices = set(range(self._n * len(self._generation.prompts)))
        begun: set[int] = set()
        async for place, output in self._generation.outputs():
            chunks = []
            for completion in output.outputs:
                index = place * self._n + completion.index
                if index in open_choices and self._is_news(completion):
                    chunks.append(writer.chunk(dumps(self._choice(index, output, completion, index not in begun))))
                    begun.add(index)
                    if completion.finish_reason is not None:
                        open_choices.discard(index)
            if chunks:
                yield b"".join(chunks)

    def _is_news(self, completion: CompletionOutput) -> bool:
        tells_tokens = completion.logprobs is not None or self._body.return_token_ids
        return bool(completion.text or (tells_tokens and completion.token_ids) or completion.finish_reason)

    def _whole_choice(self, index: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        choice = self._choice(index, output, completion, begins=True)
        asked = self._body.prompt_logprobs is not None
        return {
            **choice,
            "token_ids": choice.get("token_ids"),
            "prompt_token_ids": choice.get("prompt_token_ids"),
            "prompt_logprobs": prompt_logprobs_json(output.prompt_logprobs) if asked else None,
        }

    def _choice(self, index: int, output: RequestOutput, completion: CompletionOutput, begins: bool) -> dict[str, Any]:
        """What a choice says of a completion, or of what is new of it; its prompt where it `begins`."""
        body, prompt = self._body, output.prompt_token_ids
        text, tokens, positions = completion.text, completion.token_ids, completion.logprobs
        reason = completion.finish_reason
        if body.max_tokens == 0:  # the one token that was made is not shown
            text, tokens, positions, reason = "", [], positions and [], reason and "length"
        logprobs = self._logprobs[index]
        echoes = bool(body.echo) and begins
        written = None
        if positions is not None:
            echoed = (prompt, output.prompt_logprobs or []) if echoes else ([], [])
            written = logprobs.write([*echoed[0], *tokens], [*echoed[1], *positions])
        choice = {
            "index": index,
            "text": (output.prompt or "") + text if echoes else text,
            "logprobs": written,
            "finish_reason": reason,
            "stop_reason": completion.stop_reason,
        }
        if body.return_token_ids:
            choice["token_ids"] = tokens
            if begins:
                choice["prompt_token_ids"] = prompt
        return choice
