"""What an engine looks like between two steps: plain numbers, copied on its thread for whoever watches it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from octavo.engine.clock import StepRecord
from octavo.engine.engine import Engine
from octavo.engine.job import Job
from octavo.request import Request, Status

MOST_REQUESTS = 256  # are told of one by one


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request; nothing of its text. `tables` are the blocks of its sequences, and of its source, in the first group
    of layers: a block may be there more than once."""

    id: str
    state: str  # "waiting", "prefill" or "decode"
    arrival: float  # of time.monotonic()
    prompt_tokens: int
    computed_tokens: int  # of the prompt, and of what was generated for the first of its sequences
    cached_tokens: int  # of the prompt, that the prefix cache had
    output_tokens: int  # of all its sequences that go on
    max_tokens: int  # of each sequence
    sequences: int  # that go on
    priority: int
    tables: tuple[list[int], ...]


@dataclass(frozen=True, slots=True)
class EngineView:
    """An engine at `taken`, a time of time.monotonic(): all requests that run, then some that wait.

    `free` are the blocks of the first group of layers that nobody has; `num_cached`, how many nobody owns, but the
    prefix cache has.
    """

    taken: float
    requests: tuple[RequestView, ...]
    num_running: int
    num_waiting: int
    first_block: int
    num_blocks: int
    free: list[int]
    num_cached: int
    records: tuple[StepRecord, ...]


def take_view(engine: Engine) -> EngineView:
    """To be called on the engine's thread, between steps. Takes microseconds, and some more for each 1,000 blocks."""
    scheduler = engine.scheduler
    pool = scheduler.blocks.pools[0]
    free, num_cached = pool.unowned()
    requests = scheduler.requests(MOST_REQUESTS)
    return EngineView(
        taken=time.monotonic(),
        requests=tuple(_view(request, engine.jobs[request.id]) for request in requests),
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        first_block=pool.group.first,
        num_blocks=pool.group.count,
        free=free,
        num_cached=num_cached,
        records=tuple(engine.clock.records),
    )


def _view(request: Request, job: Job) -> RequestView:
    sequences, source = request.sequences, request.prompt.source
    first = sequences[0] if sequences else None
    if request.status is Status.WAITING:
        state = "waiting"
    elif first is not None and first.num_computed < first.num_prompt_tokens:
        state = "prefill"
    else:
        state = "decode"
    tables = [sequence.tables[0].held for sequence in sequences if sequence.tables]
    if source is not None and source.place.tables:
        tables.append(source.place.tables[0].held)
    return RequestView(
        id=request.id,
        state=state,
        arrival=request.arrival,
        prompt_tokens=len(request.prompt.token_ids),
        computed_tokens=0 if first is None else first.num_computed,
        cached_tokens=request.num_cached_tokens or 0,
        output_tokens=sum(len(sequence.tokens) - sequence.num_prompt_tokens for sequence in sequences),
        max_tokens=job.max_tokens,
        sequences=len(sequences),
        priority=request.priority,
        tables=tuple(tables),
    )
