"""One answer of text: the request is read and submitted, and what comes is written in one piece or as a stream."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response

from octavo.engine.inputs import truncated
from octavo.errors import ParameterError
from octavo.request import CompletionOutput, Prompt, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.server.admission import admit
from octavo.server.body import read_body
from octavo.server.generation import Generation
from octavo.server.instance import ModelInstance
from octavo.server.protocol.common import SamplingFields
from octavo.server.sse import EventStream
from octavo.server.state import state_of
from octavo.server.writing import JSONAnswer, dumps
from octavo.structured.compiler import CompiledGrammar
from octavo.structured.grammar import Grammar, SpecialTokens
from octavo.version import __version__

FINGERPRINT = f"octavo-{__version__}"
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
Body = TypeVar("Body", bound=SamplingFields)


async def answer(request: Request, form: type[Body], writer: type[Writer[Body]]) -> Response:
    """Carries out a request whose body is a `form`. Raises what it is refused with."""
    return await respond(request, await read_body(request, form, state_of(request).config), writer)


async def respond(request: Request, body: Body, writer: type[Writer[Body]]) -> Response:
    """Carries out a request that has been read. Raises what it is refused with."""
    return await writer(request, body, await begin(request, body, writer)).response()


async def begin(request: Request, body: Body, writer: type[Writer[Body]]) -> Generation:
    """Checks a request that has been read, and makes its prompts. Raises what it is refused with."""
    server = state_of(request)
    body.check()
    served = await server.control.find(body.model, "text")
    if len(body.prompts) > (most := server.config.max_prompts):
        raise ParameterError(body.PROMPTS, len(body.prompts), f"at most {most} prompts (--max-prompts)")
    model = await admit(server, served, request, len(body.prompts))
    params, longest = writer.params(model, body), model.engine.model.max_model_len
    prompts = await writer.limited(model, body, await writer.read(model, body))
    prompts = [truncated(prompt, params, longest).extended(cache_salt=body.cache_salt) for prompt in prompts]
    asked_tokens = None if body.IS_CUT_BY_CONTEXT else body.asked_tokens
    return Generation(server, model, request, prompts, params, asked_tokens, body.priority)


class Writer(ABC, Generic[Body]):
    """The JSON of one answer. Choices are numbered over all prompts.

    A chunk's is written by hand, as there is one per token: what is the same in all of them is made once.
    """

    ID: ClassVar[str]  # what ids begin with
    WHOLE: ClassVar[str]  # what `object` says of an answer in one piece
    CHUNK: ClassVar[str]  # and of a chunk

    def __init__(self, request: Request, body: Body, generation: Generation):
        self.body, self.generation = body, generation
        self.tokenizer = generation.model.engine.model.tokenizer
        self.num_choices = generation.params.n  # of each prompt
        kind = self.CHUNK if body.stream else self.WHOLE
        self._head = answer_head(self.ID, kind, request, body.request_id, body.model or generation.model.id)
        self._chunk_head = b"data: " + dumps({**self._head, "system_fingerprint": FINGERPRINT})[:-1] + b',"choices":['
        options = body.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self._tells_usage_always = bool(self._tells_usage and options and options.continuous_usage_stats)
        self.open_choices = set(range(self.num_choices * len(generation.prompts)))
        self.begun: set[int] = set()  # choices

    @staticmethod
    @abstractmethod
    async def read(model: ModelInstance, body: Any) -> list[Prompt]:
        """The prompts of a request."""

    @staticmethod
    def params(model: ModelInstance, body: Any) -> SamplingParams:
        """The engine's parameters for a request. Raises ParameterError or ConfigError."""
        return cast(SamplingParams, body.params(model.engine.model))

    @staticmethod
    async def limited(model: ModelInstance, body: Any, prompts: list[Prompt]) -> list[Prompt]:
        """The prompts with the grammar that the body asks for. Raises what it is refused with."""
        if (asked := body.grammar()) is None:
            return prompts
        name, make = asked
        grammar = await compiled(model, make, name)
        return [prompt.extended(grammar=grammar) for prompt in prompts]

    @abstractmethod
    def choice(self, place: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        """A choice of an answer in one piece; `place` is that of its prompt."""

    @abstractmethod
    def chunks(self, index: int, output: RequestOutput, completion: CompletionOutput) -> Iterator[bytes]:
        """The events that tell what is new of the choice `index`."""

    def more(self, outputs: list[RequestOutput]) -> dict[str, Any]:
        """Further fields of an answer in one piece."""
        return {}

    async def response(self) -> Response:
        """The answer, in one piece or as a stream. Raises what goes wrong before it begins."""
        return EventStream(self.events()) if self.body.stream else JSONAnswer(await self.whole())

    async def whole(self) -> dict[str, Any]:
        async with self.generation as generation:
            outputs = await generation.finished()
        more = self.more(outputs)
        choices = [
            self.choice(place, output, completion)
            for place, output in enumerate(outputs)
            for completion in output.outputs
        ]
        usage = usage_json(generation)
        return {**self._head, "choices": choices, "usage": usage, "system_fingerprint": FINGERPRINT, **more}

    async def events(self) -> AsyncIterator[bytes]:
        """What is new of each choice, and then the usage, if it was asked for.

        It also comes where what has begun is ended by an error, which is raised after it.
        """
        begun = False
        async with self.generation as generation:
            try:
                async for place, output in generation.outputs():
                    if chunks := b"".join(self._chunks(place, output)):
                        yield chunks
                        begun = True
            except Exception:
                if begun and self._tells_usage:
                    yield self._usage()
                raise
            if self._tells_usage:
                yield self._usage()

    def chunk(self, choice: bytes, more: bytes = b"") -> bytes:
        """One event with one choice; `more` is JSON of further fields, each after a comma."""
        if self._tells_usage_always:
            more += b',"usage":' + dumps(usage_json(self.generation))
        elif self._tells_usage:
            more += b',"usage":null'
        return self._chunk_head + choice + b"]" + more + b"}\n\n"

    def begins(self, index: int) -> bool:
        """Whether nothing was told of this choice before."""
        is_first = index not in self.begun
        self.begun.add(index)
        return is_first

    def _chunks(self, place: int, output: RequestOutput) -> Iterator[bytes]:
        for completion in output.outputs:
            index = place * self.num_choices + completion.index
            if index in self.open_choices:
                yield from self.chunks(index, output, completion)
                if completion.finish_reason is not None:
                    self.open_choices.discard(index)

    def _usage(self) -> bytes:
        return self._chunk_head + b'],"usage":' + dumps(usage_json(self.generation)) + b"}\n\n"


async def compiled(model: ModelInstance, make: Callable[[SpecialTokens], Grammar], name: str) -> CompiledGrammar:
    """What `make` makes of the field `name`, compiled for a model. Raises GrammarError."""
    return await asyncio.wrap_future(model.engine.model.grammars.later(make, name))


def answer_head(start: str, kind: str, request: Request, given: str | None, model: str) -> dict[str, Any]:
    """What each answer begins with. Its id is that which the request was `given`, if it can be one, behind `start`."""
    name = given or request.state.given_id
    id = f"{start}-{name if name and _ID.fullmatch(name) else uuid.uuid4().hex}"
    return {"id": id, "object": kind, "created": int(time.time()), "model": model}


def usage_json(generation: Generation) -> dict[str, Any]:
    """Tokens read and written so far."""
    read, written = generation.num_prompt_tokens, generation.num_output_tokens
    nothing = ("audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": generation.num_cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": generation.num_reasoning_tokens,
            **dict.fromkeys(nothing, 0),
        },
    }
