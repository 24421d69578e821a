"""How outputs get from the engine's thread to a reader on an event loop, within bounds of memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from octavo.errors import OctavoError, SlowReaderError
from octavo.request import CompletionOutput, Prompt, RequestOutput
from octavo.sampling_params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from octavo.engine.driver import Driver

MAX_EVENTS = 64  # outputs that wait for their reader one by one; more are merged
MAX_BYTES = 256 << 10  # what may wait altogether, by estimate, unless the reader says otherwise
BARE_BYTES = 200  # of an output without a text
Item = RequestOutput | OctavoError


class Mailbox:
    """Calls functions on an event loop, from other threads: the loop wakes once, however many there are."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def post(self, call: Callable[[], None]) -> None:
        """Raises RuntimeError if the loop is closed."""
        self._calls.append(call)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._is_scheduled = False  # first: what comes from here on may find the queue empty
        while self._calls:
            self._calls.popleft()()


class OutputStream:
    """The outputs of one or several requests, for one reader.

    A reader that is slower than the model finds what waits for it merged; when even that is more than `max_bytes`, its
    requests are aborted and `next` raises SlowReaderError. All methods are for the loop's thread.
    """

    def __init__(self, driver: Driver, mailbox: Mailbox):
        self.max_bytes = MAX_BYTES
        self._driver, self._mailbox = driver, mailbox
        self._kinds: dict[str, RequestOutputKind] = {}  # of the requests that have not ended
        self._items: deque[Item] = deque()
        self._num_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failed = False

    @property
    def ended(self) -> bool:
        """Whether all requests have ended and everything is read."""
        return not self._kinds and not self._items

    @property
    def has_news(self) -> bool:
        """Whether `next` would return, or raise, at once."""
        return bool(self._items)

    def submit(self, name: str, prompt: Prompt, params: SamplingParams, priority: int = 0) -> None:
        """Queues a request at the engine. What is wrong with it, `next` raises."""
        self._kinds[name] = params.output_kind
        self.max_bytes += BARE_BYTES  # thousands of short ones may end at once
        self._driver.submit(name, prompt, params, priority, partial(self._deliver, name))

    async def next(self) -> RequestOutput:
        """The next output of any of the requests. Raises the error of a request that failed."""
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, OctavoError):
            raise item
        self._num_bytes -= _size(item) if self._items else self._num_bytes
        if item.error is not None:
            raise item.error
        return item

    def cut(self) -> None:
        """Ends all requests with what they have generated: their last outputs are still to come."""
        for name in self._kinds:
            self._driver.cut(name)

    def fail(self, error: OctavoError) -> None:
        """Ends everything: requests are aborted, and the reader gets `error` after what waits for it."""
        if not self._failed and not self.ended:
            self.close()
            self._put(error)

    def close(self) -> None:
        """Aborts what has not ended; nothing more is taken from the engine."""
        self._failed = True
        for name in self._kinds:
            self._driver.abort(name)
        self._kinds.clear()

    def _deliver(self, name: str, item: Item) -> None:
        """Called by the engine's thread."""
        try:
            self._mailbox.post(partial(self._take, name, item))
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._driver.abort(name)

    def _take(self, name: str, item: Item) -> None:
        if self._failed:
            return
        kind = self._kinds[name]
        if isinstance(item, OctavoError) or item.finished:
            del self._kinds[name]
        if isinstance(item, OctavoError) or not self._merge(item, kind):
            self._put(item)
        if len(self._items) > 1 and self._num_bytes > self.max_bytes:
            self._items.clear()
            self.close()
            self._put(SlowReaderError(f"the reader is too slow: {self._num_bytes >> 10} KiB wait for it"))

    def _put(self, item: Item) -> None:
        if isinstance(item, RequestOutput):
            self._num_bytes += _size(item)
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _merge(self, new: RequestOutput, kind: RequestOutputKind) -> bool:
        """Merges an output into the last of its request that still waits, if many do."""
        if len(self._items) < MAX_EVENTS:
            return False
        for place in range(len(self._items) - 1, -1, -1):
            old = self._items[place]
            if isinstance(old, RequestOutput) and old.request_id == new.request_id:
                before = _size(old)
                if kind is RequestOutputKind.DELTA:
                    new.outputs = _joined(old.outputs, new.outputs)
                self._items[place] = new
                self._num_bytes += _size(new) - before
                return True
        return False


def _joined(old: list[CompletionOutput], new: list[CompletionOutput]) -> list[CompletionOutput]:
    """Two deltas as one."""
    before = {output.index: output for output in old}
    for output in new:
        if (first := before.pop(output.index, None)) is not None:
            output.text = first.text + output.text
            output.token_ids = first.token_ids + output.token_ids
            if output.logprobs is not None:
                output.logprobs = (first.logprobs or []) + output.logprobs
    return [*before.values(), *new]


def _size(output: RequestOutput) -> int:
    """Bytes that it takes, by estimate: its text and token ids, and 100 for each log-probability."""
    size = BARE_BYTES
    for completion in output.outputs:
        size += 100 + len(completion.text) + 8 * len(completion.token_ids)
        if completion.logprobs:
            size += 100 * sum(map(len, completion.logprobs))
    return size
