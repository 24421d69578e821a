"""GET /engine/stats and /engine/events: what is asked, and what is told of models and their requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from octavo.server.protocol.common import RequestModel
from octavo.server.protocol.forms import NUMBER

SHORTEST, LONGEST_INTERVAL = 0.05, 60.0  # seconds


class EventsQuery(RequestModel):
    """What the stream is asked for with."""

    interval: Annotated[float, Field(ge=SHORTEST, le=LONGEST_INTERVAL, allow_inf_nan=False), NUMBER] = Field(
        1.0, description="seconds between events"
    )


class Machine(BaseModel):
    """The machine, as this process may use it."""

    device: str = Field(description="where the first model runs: cpu or cuda")
    threads: int
    isa: str = Field(description="the instruction set of the kernels")
    memory_free: int = Field(description="bytes that may still be taken, of the machine or its container")
    memory_process: int = Field(description="bytes of this process that are in memory")


class BlocksStats(BaseModel):
    """The KV cache of a model's first group of layers: used, cached and free blocks are all there are."""

    block_size: int = Field(description="tokens in a block")
    num_blocks: int
    used: int = Field(description="blocks that requests own")
    cached: int = Field(description="blocks that nobody owns, but the prefix cache has")
    free: int
    bytes: int = Field(description="of all groups of layers")
    blocks_per_cell: int = Field(description="blocks that a cell of the picture stands for")
    blocks: list[tuple[int, int | Literal["free", "cached", "shared"]]] = Field(
        description="runs of cells, in the order of the blocks' numbers: how many, and whose: a request's n, or shared"
    )


class RequestStats(BaseModel):
    """A request that is in the engine."""

    n: int = Field(description="a small number that it keeps while it lives")
    id: str = Field(description="the engine's name of it")
    state: Literal["waiting", "prefill", "decode"]
    age: float = Field(description="seconds since it came")
    prompt_tokens: int
    computed_tokens: int = Field(description="of its first sequence, generated ones too")
    cached_tokens: int = Field(description="of its prompt, that the prefix cache had")
    output_tokens: int = Field(description="of its sequences that go on")
    max_tokens: int = Field(description="of each sequence")
    blocks: int = Field(description="that it owns, alone or with others")
    sequences: int = Field(description="that go on")
    priority: int


class Rates(BaseModel):
    """What the steps of the last second did; the share of hits is of all time where nothing was looked up in it."""

    prompt_tokens_per_s: float = Field(description="computed, so without cached ones")
    output_tokens_per_s: float
    requests_per_s: float = Field(description="that ended")
    prefix_hit_share: float = Field(description="of tokens looked up in the prefix cache, 0 to 1")


class Totals(BaseModel):
    """Counts since the model was loaded."""

    prompt_tokens: int = Field(description="computed, so without cached ones")
    output_tokens: int
    requests: int = Field(description="that ended")
    prefix_queries: int = Field(description="tokens looked up in the prefix cache")
    prefix_hits: int


class LastStep(BaseModel):
    seconds: float
    tokens: int
    sequences: int
    prefill_tokens: int


class MeanStep(BaseModel):
    """Mean seconds of a step's phases over the last 64 steps."""

    plan: float
    run: float
    commit: float
    land: float
    other: float


class StepStats(BaseModel):
    count: int = Field(description="since the model was loaded")
    last: LastStep | None = Field(description="null before the first")
    mean: MeanStep


class ModelStats(BaseModel):
    """A model, and what its engine looked like between two steps. Without an engine most is 0 or null."""

    id: str
    state: Literal["unloaded", "loading", "ready", "sleeping", "failed"]
    phase: str = Field(description="what loading does right now, or ready")
    pinned: bool
    kind: Literal["text", "speech", "embed"] | None
    skills: list[str]
    max_model_len: int | None
    max_num_seqs: int
    running: int
    waiting: int
    queued_tokens: int = Field(description="of the prompts of listed requests, that are not computed yet")
    stale: bool = Field(description="the engine did not answer: what it says is of an earlier time")
    kv: BlocksStats | None = Field(description="null for a model that keeps nothing")
    requests: list[RequestStats] = Field(description="running ones first; 256 at most")
    more_requests: int = Field(description="that are not listed")
    rates: Rates
    totals: Totals
    step: StepStats
    preemptions: int
    restarts: int


class EngineStatsAnswer(BaseModel):
    """One look at everything; nothing of any request's text."""

    time: float = Field(description="seconds since 1970")
    uptime: float = Field(description="seconds since the server began")
    version: str
    machine: Machine
    models: list[ModelStats]
