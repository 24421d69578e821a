"""One HTTP request at the engine: admitted, submitted, followed, and ended exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from starlette.requests import Request

from octavo.errors import OctavoError
from octavo.request import BACKGROUND, Prompt, RequestMetrics, RequestOutput
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.server.admission import asked_timeout
from octavo.server.errors import ClientGoneError, DeadlineError, HttpError, body_of
from octavo.server.instance import ModelInstance
from octavo.server.options import LONGEST
from octavo.server.protocol.common import check_room
from octavo.server.state import ServerState

GRACE_SECONDS = 2.0  # the engine has so long after the deadline to hand out what it generated


class Generation:
    """The prompts of one HTTP request, as requests of an engine. Used with `async with`.

    Leaving it ends all of them: the client left, the deadline passed, the server ends, or the answer is complete.
    """

    def __init__(
        self,
        server: ServerState,
        model: ModelInstance,
        request: Request,
        prompts: list[Prompt],
        params: SamplingParams,
        asked_tokens: int | None,
        priority: int | None,
    ):
        """`asked_tokens` is the request's own max_tokens. Raises HttpError for what can't be carried out."""
        for prompt in prompts:
            loaded = model.engine.model
            room = int(loaded.pooler is None)  # for a token
            check_room(len(prompt.token_ids), asked_tokens, loaded.max_model_len, room)
        if priority and model.config.scheduling_policy != "priority":
            reason = "priority: the server does not run with --scheduling-policy priority"
            raise HttpError(reason, "priority", code="unsupported_parameter")
        self.model, self.prompts, self.params = model, prompts, params
        self.num_output_tokens = 0
        self.num_cached_tokens = 0
        self.num_reasoning_tokens = 0  # of the choices that have ended; who reads the answers counts them
        # The queue counts so many requests. Texts that generate nothing wait for their tokens alone.
        self._num_seats = max(1, len(prompts)) if model.engine.model.pooler is None else 1
        self._server, self._request = server, request
        self._stream = model.engine.open_stream()
        self._places: dict[str, int] = {}  # indices of prompts, by the engine's request id
        self._waiting = set(range(len(prompts)))  # prompts without a token yet
        self._last_token: dict[int, float] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()  # lengths of completions, by prompt and index
        is_background = request.state.is_background
        self._queue = model.queue_of(is_background)
        self._longest = LONGEST if is_background else server.config.request_timeout
        self._asked_tokens = asked_tokens
        self._priority = (priority or 0) + (BACKGROUND if is_background else 0)
        self._asked_timeout = asked_timeout(request)
        self._is_late = False
        self._began = 0.0
        self._entered = time.monotonic()
        self._times: dict[int, RequestMetrics] = {}  # of each prompt that has an output
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(prompt.token_ids) for prompt in self.prompts)

    @property
    def timeout(self) -> float:
        """Seconds that it may take."""
        return min(self._asked_timeout, self._longest)

    async def __aenter__(self) -> Self:
        """Submits all prompts. Raises UnavailableError if the queue has no room for them."""
        try:
            self._entered = time.monotonic() - self._request.state.waited  # for its model
            self._queue.enter(self._num_seats, self.num_prompt_tokens)
        except HttpError as error:
            self.model.metrics.refused[error.code] += 1
            raise
        self._server.active.add(self.fail)
        self.model.active.add(self.fail)
        self._request.state.client.charge(self.num_prompt_tokens)
        self.model.metrics.observe("asked_n", self.params.n)
        if self._asked_tokens is not None:
            self.model.metrics.observe("asked_tokens", self._asked_tokens)
        for place, prompt in enumerate(self.prompts):
            self._submit(place, prompt)
        loop = asyncio.get_running_loop()
        self._began = loop.time() - self._request.state.waited
        self._watcher = loop.create_task(self._watch_client())
        self._watch_time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.active.discard(self.fail)
        self.model.active.discard(self.fail)
        for watcher in (self._watcher, self._timer):
            if watcher is not None:
                watcher.cancel()
        self._stream.close()
        for place in self._waiting:
            self._queue.start(len(self.prompts[place].token_ids))
        self._queue.leave(self._num_seats)
        self._request.state.client.charge(self.num_output_tokens)
        self._request.state.log = self._log_fields()
        if error is not None:
            code = "cancelled" if not isinstance(error, Exception) else body_of(error)["error"]["code"]
            self.model.metrics.failed[code] += 1
            self.model.metrics.finished["abort" if isinstance(error, ClientGoneError) else "error"] += 1
        if (tracer := self._server.tracer) is not None:
            tracer.record(self._request, self.model.id, self, self._entered, self._times, error)

    async def outputs(self) -> AsyncIterator[tuple[int, RequestOutput]]:
        """Outputs as they come, each with the place of its prompt. Raises what ends the request early.

        What was generated before the deadline is the answer; where that is nothing at all, raises DeadlineError.
        """
        held: list[tuple[int, RequestOutput]] = []  # the ends of prompts that have no token, nor has any other
        while not self._stream.ended:
            output = await self._stream.next()
            place = self._places[output.request_id]
            self._note(place, output)
            held.append((place, output))
            if self._is_late and not self.num_output_tokens:
                continue
            for each in held:
                yield each
            held.clear()
        if held:
            raise self._deadline_error

    async def finished(self) -> list[RequestOutput]:
        """The last output of every prompt, in their order."""
        found = {place: output async for place, output in self.outputs() if output.finished}
        return [found[place] for place in range(len(self.prompts))]

    def fail(self, error: OctavoError) -> None:
        """Ends it; the client is told `error`."""
        self._stream.fail(error)

    def _submit(self, place: int, prompt: Prompt) -> None:
        name = self.model.engine.driver.new_id()
        self._places[name] = place
        self._stream.submit(name, prompt, self.params, self._priority)

    async def _watch_client(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.fail(ClientGoneError("the client closed the connection"))

    def _watch_time(self) -> None:
        """Ends it when it has taken as long as it may, which may have become longer since the last look."""
        loop, allowed = asyncio.get_running_loop(), self.timeout
        if loop.time() < self._began + allowed:
            self._timer = loop.call_at(self._began + allowed, self._watch_time)
        elif not self._is_late:
            self._is_late = True
            self._timer = loop.call_later(GRACE_SECONDS, self._watch_time)
            self._expire()
        else:
            self.fail(self._deadline_error)

    def _expire(self) -> None:
        """The deadline has come: the engine is to end what runs, and say what there is."""
        self._stream.cut()

    @property
    def _deadline_error(self) -> DeadlineError:
        return DeadlineError(f"the request was not finished within {self.timeout:g} s")

    def _log_fields(self) -> dict[str, Any]:
        return {
            "client": self._request.state.client.name,
            "model": self.model.id,
            "prompt_tokens": self.num_prompt_tokens,
            "output_tokens": self.num_output_tokens,
        }

    def _note(self, place: int, output: RequestOutput) -> None:
        """Counts tokens, and leaves the queue with the first."""
        metrics, now = self.model.metrics, time.monotonic()
        count = sum(len(completion.token_ids) for completion in output.outputs)
        self.num_output_tokens += count
        for completion in output.outputs:
            self._lengths[place, completion.index] += len(completion.token_ids)
        if place in self._waiting and (count or output.finished):
            self._waiting.discard(place)
            self._queue.start(len(self.prompts[place].token_ids))
            self.num_cached_tokens += output.num_cached_tokens or 0
        elif place in self._last_token and count:
            metrics.observe("between_tokens", now - self._last_token[place])
        self._last_token[place] = now
        if output.metrics is not None:
            self._times[place] = output.metrics
        if output.finished:
            self._note_finished(place, output)

    def _note_finished(self, place: int, output: RequestOutput) -> None:
        metrics, times = self.model.metrics, output.metrics
        assert times is not None
        num_prompt, num_cached = len(self.prompts[place].token_ids), output.num_cached_tokens or 0
        lengths = [self._lengths[place, completion.index] for completion in output.outputs]
        mean = metrics.observe_finished(times, num_prompt, num_cached, lengths)
        if mean is not None and self.params.output_kind is RequestOutputKind.FINAL_ONLY:
            # Of an answer in one piece only the mean time between its tokens is known.
            metrics.observe("between_tokens", mean, sum(lengths) // len(lengths) - 1)
        for reason in [completion.finish_reason for completion in output.outputs] or ["stop"]:
            metrics.finished[reason or "stop"] += 1
