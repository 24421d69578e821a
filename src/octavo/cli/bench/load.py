"""The load itself: requests go out at their times, and every token's arrival is noted."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from octavo.cli.bench.workload import Sample
from octavo.client.api import CHAT, ApiClient, ApiError, Json
from octavo.client.framing import ConnectionFailed


@dataclass(slots=True)
class Measured:
    """One request. Times are seconds of `time.perf_counter()`; `error` is a status or a word, None if all went well."""

    begin: float
    end: float = 0.0
    times: array[float] = field(default_factory=lambda: array("d"))  # when tokens arrived
    num_read: int | None = None  # tokens of the prompt and of the output, as the server counts them
    num_written: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what all of them say."""

    client: ApiClient
    path: str
    fields: Json
    timeout: float  # the longest that a request may take, in seconds

    def body(self, sample: Sample) -> Json:
        is_chat, asked = self.path.endswith(CHAT.removeprefix("/v1")), sample.prompt
        prompt = {"messages": [{"role": "user", "content": asked}]} if is_chat else {"prompt": asked}
        return {**self.fields, **prompt, "max_tokens": sample.output_len}


async def measure(target: Target, sample: Sample) -> Measured:
    """Sends one request and waits for its end, good or bad."""
    one = Measured(time.perf_counter())
    try:
        async with asyncio.timeout(target.timeout):
            async for chunk in target.client.stream(target.path, target.body(sample)):
                if brings_token(chunk.json):
                    one.times.append(chunk.time)
                if usage := chunk.json.get("usage"):
                    one.num_read, one.num_written = usage.get("prompt_tokens"), usage.get("completion_tokens") or 0
        one.error = None if one.times else "empty"
    except ApiError as error:
        one.error = str(error.status) if error.status != 200 else "stream"
    except ConnectionFailed:
        one.error = "connection"
    except TimeoutError:
        one.error = "timeout"
    one.end = time.perf_counter()
    one.num_written = one.num_written or len(one.times)
    return one


def brings_token(chunk: dict[str, Any]) -> bool:
    """Whether a chunk is for a token: it has text, or at least says neither who speaks nor why that ended."""
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta")
        text = choice.get("text") if delta is None else delta.get("content")
        if text or (text is not None and not choice.get("finish_reason") and "role" not in (delta or {})):
            return True
    return False


async def run_load(
    target: Target,
    samples: Iterable[Sample],
    arrivals: Iterable[float],
    max_concurrency: int | None,
    on_end: Callable[[Measured], None],
) -> list[Measured]:
    """Sends each sample at its time; beyond `max_concurrency` requests wait, and their clock with them."""
    gate = nullcontext() if max_concurrency is None else asyncio.Semaphore(max_concurrency)
    measured: list[Measured] = []

    async def one(sample: Sample) -> None:
        async with gate:
            result = await measure(target, sample)
        measured.append(result)
        on_end(result)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for at, sample in zip(arrivals, samples, strict=False):
            if (pause := begin + at - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            tasks.create_task(one(sample))
    return measured
