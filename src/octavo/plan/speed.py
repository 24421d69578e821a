"""How fast a model would be: each op takes a little longer than the slower of reading its bytes and computing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from octavo.config import EngineConfig
from octavo.engine.memory import MemoryPlan
from octavo.executor.base import Footprint
from octavo.executor.native.tape import Op, Tape
from octavo.graph.builder import Graph
from octavo.graph.cost import StepCost, step_cost
from octavo.graph.node import StepShape
from octavo.graph.ops.attention import Attention, CrossAttention
from octavo.plan.limits import Limits, known_limits, limits
from octavo.plan.machines import Machine
from octavo.weights.layout import PLAIN

ERROR = 0.3  # of a rate on a CPU that was measured; benchmarks/plan.py compares
GPU_ERROR = 0.5  # of one from a GPU's data sheet: none of these has been measured
# Shares of the limits that are reached, and what comes to each op and each step: threads that meet, and the engine.
BANDWIDTH_SHARE, MATMUL_SHARE, ATTENTION_SHARE = 0.95, 0.9, 0.5
OP_SECONDS, STEP_SECONDS = 1.5e-6, 2.5e-4
OVERLAP = 1.5  # the power in which reading and computing add up: 1 is one after the other, infinity both at once
GPU_BANDWIDTH_SHARE, GPU_MATMUL_SHARE, GPU_STEP_SECONDS = 0.7, 0.5, 1e-3
PROMPT, CONTEXT = 1024, 320  # tokens of the prompt that is read, and of what sequences have behind them that write


class Described(Protocol):
    """What has to be known of a model, loaded or not."""

    @property
    def config(self) -> EngineConfig: ...

    @property
    def graph(self) -> Graph: ...

    @property
    def pooler(self) -> object | None: ...

    @property
    def footprint(self) -> Footprint: ...


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second: of one request that writes, of as many as may run at once, and of a prompt that is read.

    None for what a model does not do. `error` is the share by which they may be wrong.
    """

    decode_alone: float | None
    decode_together: float | None
    together: int  # how many requests those are
    prefill: float
    context: int  # tokens that each of them has behind it
    prompt: int  # tokens of the prompt
    error: float


def expected_speed(model: Described, memory: MemoryPlan, machine: Machine, *, measures: bool = True) -> Speed | None:
    """None where the limits are not known: `measures` says whether they may be measured, which takes half a second."""
    if machine.device == "cpu" and not isinstance(model.footprint, Tape):
        return None
    found = None
    if machine.device == "cpu":
        names = layouts_of(model)
        found = limits(names) if measures else known_limits(names)
        if found is None:
            return None
    elif machine.bandwidth is None or machine.flops is None:
        return None
    seconds = partial(_seconds, model, memory, machine, found)
    length = memory.max_model_len
    prompt = max(1, min(PROMPT, length - 1, memory.max_num_batched_tokens))
    error = ERROR if machine.device == "cpu" else GPU_ERROR
    prefill = prompt / seconds([(prompt, prompt)], 1)
    if model.graph.keeps_nothing or model.pooler is not None:
        return Speed(None, None, 1, prefill, 0, prompt, error)
    context = max(1, min(CONTEXT, length // 2))
    room = memory.num_blocks * memory.block_size // (context + memory.source_positions)
    together = max(1, min(memory.max_num_seqs, room))
    alone, many = 1 / seconds([(1, context)], 1), together / seconds([(1, context)] * together, together)
    return Speed(alone, many, together, prefill, context, prompt, error)


def layouts_of(model: Described) -> list[str]:
    """Those of its matrices, and the plain one of its type, in which attention computes."""
    tape = model.footprint
    assert isinstance(tape, Tape)
    dtype = model.config.dtype
    return sorted({dtype, *(matrix.layout or dtype for matrix in tape.matrices())})


def _seconds(
    model: Described,
    memory: MemoryPlan,
    machine: Machine,
    found: Limits | None,
    contexts: list[tuple[int, int]],
    rows: int,
) -> float:
    step, dtype = StepShape(contexts, rows, memory.source_positions), model.config.dtype
    if found is not None:
        assert isinstance(model.footprint, Tape)
        cached = _bytes_per_value(model, memory) / PLAIN[dtype].block_bytes
        ops = model.footprint.ops
        return STEP_SECONDS + sum(_op_seconds(op, step, dtype, cached, found) for op in ops)
    assert machine.bandwidth is not None
    assert machine.flops is not None
    cost = cost_of(model, memory, step)
    reading = cost.read_bytes / (machine.bandwidth * GPU_BANDWIDTH_SHARE)
    return GPU_STEP_SECONDS + max(reading, cost.flops / (machine.flops * GPU_MATMUL_SHARE))


def _op_seconds(op: Op, step: StepShape, dtype: str, cached: float, found: Limits) -> float:
    """`cached` is the size of a cached value beside one of the model's type."""
    read = op.weight_bytes(dtype, step.tokens) + op.cache_bytes(step, dtype) * cached
    layout = next((matrix.layout or dtype for matrix in op.matrices.values()), dtype)
    attends = any(isinstance(node, Attention | CrossAttention) for node in op.nodes)
    rate = found.flops[layout] * (ATTENTION_SHARE if attends else MATMUL_SHARE)
    reading, computing = read / (found.bandwidth * BANDWIDTH_SHARE), op.flops(step) / rate
    return float(OP_SECONDS + (reading**OVERLAP + computing**OVERLAP) ** (1 / OVERLAP))


def cost_of(model: Described, memory: MemoryPlan, step: StepShape) -> StepCost:
    """`step_cost` of a model."""
    dtype = model.config.dtype
    weight_bytes = partial(model.footprint.bytes_of, dtype=dtype)
    per_value = _bytes_per_value(model, memory)
    return step_cost(model.graph, weight_bytes, PLAIN[dtype].block_bytes, per_value, step)


def _bytes_per_value(model: Described, memory: MemoryPlan) -> float:
    """Of one of the cache, its part of a scale included."""
    values = memory.block_size * sum(layer.values_per_token for layer in model.footprint.layers)
    return sum(memory.kv_bytes_per_block) / max(1, values)
