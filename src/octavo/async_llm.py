"""`AsyncLLM`: the engine on a thread of its own, for callers on an event loop. The server stands on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from weakref import WeakKeyDictionary, finalize

from octavo.config import EngineConfig
from octavo.engine.driver import Driver
from octavo.engine.engine import Engine
from octavo.engine.loading import LoadedModel, load
from octavo.engine.pooling import NOTHING_SAMPLED, pooler_of, pooling_output, read_pooled
from octavo.engine.stream import Mailbox, OutputStream
from octavo.lora.request import refuse_lora
from octavo.pooling_params import PoolingParams
from octavo.readers import READERS
from octavo.request import PoolingRequestOutput, Prompt, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.text.hf_tokenizer import HFTokenizer


class AsyncLLM:
    """Like `LLM`, for asyncio. Any number of `generate` iterators may run at once, on any event loops.

    Takes the arguments of `LLM` and raises its errors. `close()` ends it; so does leaving `async with`, losing the
    last reference to it, and the end of the program.
    """

    def __init__(self, model: str | None = None, **options: Any):
        self._set_up(load(EngineConfig.from_options({"model": model, **options}), READERS))

    @classmethod
    def from_config(cls, config: EngineConfig, report: Callable[[str], None], usable: int | None = None) -> AsyncLLM:
        """Like the constructor; `report` is told each phase of loading as it begins.

        It takes at most `usable` bytes, by default its share of what is free.
        """
        llm = cls.__new__(cls)
        llm._set_up(load(config, READERS, report, usable))
        return llm

    @classmethod
    def from_engine_args(cls, engine_args: object) -> AsyncLLM:
        return cls(**vars(engine_args))

    def _set_up(self, model: LoadedModel) -> None:
        self.model = model
        self.driver = Driver(lambda: Engine(model))
        finalize(self, self.driver.close)  # its thread would hold the model until the interpreter is gone
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = WeakKeyDictionary()

    def open_stream(self) -> OutputStream:
        """For one reader on the running event loop, of one or several requests."""
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            mailbox = self._mailboxes[loop] = Mailbox(loop)
        return OutputStream(self.driver, mailbox)

    def get_tokenizer(self) -> HFTokenizer:
        return self.model.hf_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        return self.model.sampling_params()

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        lora_request: None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Yields outputs of one request until one is `finished`; how much they hold, `output_kind` says.

        Raises RequestError if the request can't be carried out, RequestAbortedError once it is aborted,
        EngineFailedError if the engine fails. Leaving the iterator early aborts the request. Outputs that wait for a
        reader who is slower than the model are merged, and SlowReaderError ends what grows beyond that.
        """
        refuse_lora(lora_request)
        params = sampling_params or self.get_default_sampling_params()
        checked = prompt
        if not isinstance(prompt, Prompt):
            loop = asyncio.get_running_loop()
            checked = await loop.run_in_executor(None, self.model.reader.read, prompt)
        if params.structured_outputs is not None:  # else the engine's thread would do it
            loop = asyncio.get_running_loop()
            checked = await loop.run_in_executor(None, self.model.with_grammar, checked, params)
        stream = self.open_stream()
        stream.submit(request_id or self.driver.new_id(), checked, params, priority)
        try:
            while not stream.ended:
                yield await stream.next()
        finally:
            stream.close()

    async def encode(
        self,
        prompt: Any,
        pooling_params: PoolingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        lora_request: None = None,
    ) -> AsyncIterator[PoolingRequestOutput]:
        """Yields one output of a text: its vector, one of each token, or scores, as the task of `pooling_params` says.

        Raises what `generate` raises, RequestError where the model generates texts, and ParameterError.
        """
        model, params = self.model, pooling_params or PoolingParams()
        pooler_of(model).check(params)
        loop = asyncio.get_running_loop()
        checked = await loop.run_in_executor(None, read_pooled, prompt, params, model)
        async for output in self.generate(
            checked, NOTHING_SAMPLED, request_id, priority=priority, lora_request=lora_request
        ):
            yield pooling_output(output)

    async def abort(self, request_id: str) -> None:
        """Ends a request; its iterator raises RequestAbortedError. Unknown and finished ids are no error."""
        self.driver.abort(request_id)

    def close(self) -> None:
        """Aborts what runs and ends the thread. Calling it again does nothing."""
        self.driver.close()

    def shutdown(self) -> None:
        """vLLM's name of `close`."""
        self.close()

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
