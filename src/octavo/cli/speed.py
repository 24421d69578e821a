"""How fast something was, and what share of the machine's measured limits that is."""

from __future__ import annotations

import os
import time
from typing import Any

from octavo import _native
from octavo.config import EngineConfig
from octavo.engine.loading import LoadedModel
from octavo.engine.memory import free_memory
from octavo.graph.cost import StepCost, step_cost
from octavo.graph.node import StepShape
from octavo.request import RequestMetrics
from octavo.weights.layout import PLAIN

BANDWIDTH_BYTES = 256 << 20  # the bytes read to measure memory: more than caches hold, and read within 0.2 s


def process_start() -> float | None:
    """When this process began, in seconds of time.monotonic(); None where /proc does not say."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # since the machine booted
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return time.monotonic() - age


def measured_bandwidth() -> float | None:
    """Bytes per second that this machine reads from memory; None where too little of it is free to tell."""
    size = min(BANDWIDTH_BYTES, free_memory() // 4)
    return _native.read_bandwidth(size) if size >= BANDWIDTH_BYTES // 4 else None


def model_cost(model: LoadedModel, contexts: list[tuple[int, int]], logit_rows: int) -> StepCost:
    """`step_cost` of a loaded model: for each sequence, (tokens computed, tokens in its cache afterwards)."""
    layout = PLAIN[model.config.dtype]
    step = StepShape(contexts, logit_rows)
    return step_cost(model.graph, lambda weight: layout.nbytes(weight.shape), layout.block_bytes, step)


def latencies(metrics: RequestMetrics, num_tokens: int) -> dict[str, float]:
    """TTFT, TPOT and the whole time of a request, in seconds, by the names of benchmarks/schema.md.

    There is no `tpot_s` where no token came after the first.
    """
    assert metrics.first_token_time is not None
    assert metrics.finished_time is not None
    begin, decoding = metrics.arrival_time, metrics.finished_time - metrics.first_token_time
    found = {"ttft_s": metrics.first_token_time - begin, "e2e_s": metrics.finished_time - begin}
    if num_tokens > 1 and decoding > 0:
        found["tpot_s"] = decoding / (num_tokens - 1)
    return found


def machine(config: EngineConfig) -> dict[str, Any]:
    """The machine, for reports: processor, threads, instruction set, and the GPU if the model runs on it."""
    found = {"processor": _processor(), "threads": _native.num_threads(), "isa": _native.isa()}
    if config.device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown"
