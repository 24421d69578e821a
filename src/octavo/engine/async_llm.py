"""`AsyncLLM`: the engine on a thread of its own, for callers on an event loop. The server stands on it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.defaults import default_sampling_params
from octavo.engine.engine import Engine
from octavo.engine.inputs import Prompt, read_prompt
from octavo.engine.loading import LoadedModel, load
from octavo.errors import OctavoError, RequestAbortedError, RequestError
from octavo.request import RequestOutput
from octavo.sampling_params import SamplingParams

logger = logging.getLogger("octavo")


class AsyncLLM:
    """Like `LLM`, for asyncio. Any number of `generate` iterators may run at once, on any event loops.

    Takes the arguments of `LLM` and raises its errors. `close()` ends it; so does leaving `async with`.
    """

    def __init__(self, model: str | None = None, **options: Any):
        config = EngineConfig.from_options({"model": model, **options})
        self.model: LoadedModel = load(config)
        self._driver = _Driver(Engine(self.model))

    def get_default_sampling_params(self) -> SamplingParams:
        return default_sampling_params(self.model)

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> AsyncIterator[RequestOutput]:
        """Yields outputs of one request until one is `finished`; how much they hold, `output_kind` says.

        Raises RequestError if the request can't be carried out, RequestAbortedError once it is aborted. Leaving the
        iterator early aborts the request.
        """
        params = sampling_params or self.get_default_sampling_params()
        loop = asyncio.get_running_loop()
        checked = prompt
        if not isinstance(prompt, Prompt):
            checked = await loop.run_in_executor(None, read_prompt, prompt, self.model.tokenizer)
        outputs: asyncio.Queue[RequestOutput | OctavoError] = asyncio.Queue()

        def deliver(item: RequestOutput | OctavoError) -> None:
            try:
                loop.call_soon_threadsafe(outputs.put_nowait, item)
            except RuntimeError:  # the loop is closed: nobody listens any more
                self._driver.abort(name)

        name = request_id or self._driver.new_id()
        self._driver.submit(name, checked, params, priority, deliver)
        ended = False
        try:
            while not ended:
                item = await outputs.get()
                ended = isinstance(item, OctavoError) or item.finished
                if isinstance(item, OctavoError):
                    raise item
                if item.error is not None:
                    raise item.error
                yield item
        finally:
            if not ended:
                self._driver.abort(name)

    async def abort(self, request_id: str) -> None:
        """Ends a request; its iterator raises RequestAbortedError. Unknown and finished ids are no error."""
        self._driver.abort(request_id)

    def close(self) -> None:
        """Aborts what runs and ends the thread. Calling it again does nothing."""
        self._driver.close()

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


Deliver = Callable[[RequestOutput | OctavoError], None]


class _Driver:
    """Owns the engine. Other threads leave it messages; it sleeps while there is nothing to do."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._messages: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._listeners: dict[str, Deliver] = {}
        self._next_id = 0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="octavo-engine", daemon=True)
        self._thread.start()

    def new_id(self) -> str:
        with self._wake:
            self._next_id += 1
            return f"request-{self._next_id}"

    def submit(self, name: str, prompt: Prompt, params: SamplingParams, priority: int, deliver: Deliver) -> None:
        self._post(lambda: self._submit(name, prompt, params, priority, deliver))

    def abort(self, name: str) -> None:
        if not self._closing:
            self._post(lambda: self._abort(name))

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _post(self, message: Callable[[], None]) -> None:
        with self._wake:
            if self._closing:
                raise RequestAbortedError("the engine is closed")
            self._messages.append(message)
            self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._messages or self._engine.has_work or self._closing):
                    self._wake.wait()
                if self._closing:
                    break
            while self._messages:
                self._messages.popleft()()
            try:
                for output in self._engine.step():
                    self._deliver(output)
            except Exception as error:  # a step failed as a whole: everyone in it is told, and new requests may come
                logger.exception("a step failed")
                for name in list(self._engine.jobs):
                    self._end(name, OctavoError(f"the engine failed: {error}"))
        while self._messages:  # those that came last are told like the others
            self._messages.popleft()()
        for name in list(self._engine.jobs):
            self._end(name, RequestAbortedError("the engine was closed"))

    def _submit(self, name: str, prompt: Prompt, params: SamplingParams, priority: int, deliver: Deliver) -> None:
        try:
            self._engine.submit(name, prompt, params, priority)
        except OctavoError as error:
            deliver(error)
        except Exception as error:
            deliver(RequestError(f"the request could not begin: {error}"))
        else:
            self._listeners[name] = deliver

    def _abort(self, name: str) -> None:
        self._end(name, RequestAbortedError(f"request {name} was aborted"))

    def _end(self, name: str, error: OctavoError) -> None:
        self._engine.abort(name)
        if deliver := self._listeners.pop(name, None):
            deliver(error)

    def _deliver(self, output: RequestOutput) -> None:
        deliver = self._listeners.get(output.request_id)
        if output.finished:
            self._listeners.pop(output.request_id, None)
        if deliver is not None:
            deliver(output)
