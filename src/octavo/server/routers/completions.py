"""POST /v1/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.engine.inputs import Prompt
from octavo.request import CompletionOutput, RequestOutput
from octavo.server.body import read_body
from octavo.server.errors import HttpError
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
    if len(body.prompts) > server.config.max_prompts:
        reason = f"prompt: at most {server.config.max_prompts} prompts in one request, got {len(body.prompts)}"
        raise HttpError(reason, "prompt", code="invalid_value")
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
    return [prompt.salted(body.cache_salt) for prompt in read]


class _Writer:
    """The answer to one request, as a stream or in one piece. Choices are numbered over all prompts."""

    def __init__(self, answer_id: str, body: CompletionRequest, generation: Generation):
        self._id, self._body, self._generation = answer_id, body, generation
        self._model = body.model or generation.model.id
        self._n = generation.params.n

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
                self._choice(place * self._n + completion.index, output, completion)
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
            open_choices = set(range(self._n * len(generation.prompts)))
            begun: set[int] = set()
            logprobs = [LogprobsWriter(body.logprobs or 0) for _ in open_choices]
            async for place, output in generation.outputs():
                chunks = []
                for completion in output.outputs:
                    index = place * self._n + completion.index
                    text = "" if body.max_tokens == 0 else completion.text
                    if body.echo and index not in begun:
                        begun.add(index)
                        text = (generation.prompts[place].text or "") + text
                    is_news = text or completion.logprobs or completion.finish_reason is not None
                    if index in open_choices and is_news:
                        chunks.append(writer.chunk(_chunk(index, text, completion, logprobs[index])))
                        if completion.finish_reason is not None:
                            open_choices.discard(index)
                if chunks:
                    yield b"".join(chunks)
            if last := writer.last():
                yield last

    def _choice(self, index: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        text, positions, prompt = completion.text, completion.logprobs, output.prompt_logprobs
        if self._body.max_tokens == 0:
            text, positions = "", [] if positions is not None else None
        logprobs, first = None, None
        if positions is not None:
            if self._body.echo:
                positions = [*(prompt or []), *positions]  # type: ignore[list-item]
                first = self._generation.model.engine.model.tokenizer.token(output.prompt_token_ids[0])
            logprobs = LogprobsWriter(self._body.logprobs or 0).write(positions, first)  # type: ignore[arg-type]
        return {
            "index": index,
            "text": (output.prompt or "") + text if self._body.echo else text,
            "logprobs": logprobs,
            "finish_reason": "length" if self._body.max_tokens == 0 else completion.finish_reason,
            "stop_reason": completion.stop_reason,
            "prompt_logprobs": prompt_logprobs_json(prompt) if self._body.prompt_logprobs is not None else None,
        }


def _chunk(index: int, text: str, completion: CompletionOutput, logprobs: LogprobsWriter) -> bytes:
    written = b"null"
    if completion.logprobs is not None:
        written = dumps(logprobs.write(completion.logprobs))  # type: ignore[arg-type]
    return b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b}' % (
        index,
        dumps(text),
        written,
        dumps(completion.finish_reason),
        dumps(completion.stop_reason),
    )
