"""How fast something was, what share of the machine's measured limits that is, and how benchmarks report it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from octavo import _native
from octavo.config import EngineConfig
from octavo.engine.loading import LoadedModel
from octavo.graph.cost import StepCost
from octavo.graph.node import StepShape
from octavo.plan.limits import measured_bandwidth, processor
from octavo.plan.speed import cost_of
from octavo.request import RequestMetrics

if TYPE_CHECKING:
    from octavo.llm import LLM

Json = dict[str, Any]


def process_start() -> float | None:
    """When this process began, in seconds of time.monotonic(); None where /proc does not say."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # since the machine booted
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return time.monotonic() - age


def model_cost(model: LoadedModel, contexts: list[tuple[int, int]], logit_rows: int) -> StepCost:
    """`step_cost` of a loaded model: for each sequence, (tokens computed, tokens in its cache afterwards)."""
    return cost_of(model, model.plan, StepShape(contexts, logit_rows))


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
    found = {"processor": processor(), "threads": _native.num_threads(), "isa": _native.isa()}
    if config.device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def rates(llm: LLM, contexts: list[tuple[int, int]], times: Json | None, limits: Json) -> Json | None:
    """The figures of a step over `contexts`, see `step_cost`, that took `times["mean"]` seconds; None without times."""
    if times is None:
        return None
    seconds = times["mean"]
    cost = model_cost(llm.model, contexts, len(contexts))
    tokens = sum(count for count, _ in contexts)
    return {
        "tokens_per_second": tokens / seconds,
        **shares(cost.read_bytes / seconds, cost.flops / seconds, limits),
    }


def shares(read: float, flops: float, limits: Json) -> Json:
    bandwidth = limits["bytes_per_second"]
    return {
        "bytes_per_second": read,
        "bandwidth_share": None if bandwidth is None else read / bandwidth,
        "flops_per_second": flops,
        "flops_share": flops / limits["flops_per_second"],
    }


def measure_limits(config: EngineConfig) -> Json:
    """What the model's device does at most, measured: reading memory, and multiplying in the model's type."""
    if config.device == "cpu":
        flops = _native.matmul_flops(config.dtype)
        return {"bytes_per_second": measured_bandwidth(), "flops_per_second": flops}
    from octavo.executor.torch import limits

    flops = limits.matmul_flops(config.dtype)
    return {"bytes_per_second": limits.memory_bandwidth(), "flops_per_second": flops}


def describe(kind: str, llm: LLM, limits: Json, workload: Json, results: Any) -> Json:
    """The document of a benchmark of this machine."""
    from octavo.cli.bench.figures import make_document

    config = llm.model.config
    computer, model = machine(config) | {"limits": limits}, {"name": llm.model.name, "dtype": config.dtype}
    return make_document(kind, machine=computer, model=model, workload=workload, results=results)


def header(document: Json) -> str:
    """The model, the machine and its limits, in two lines."""
    model, machine = document["model"], document["machine"]
    limits = machine["limits"]
    bandwidth = limits["bytes_per_second"]
    memory = "unknown" if bandwidth is None else f"{bandwidth / 1e9:.1f} GB/s"
    cpu = f"{machine['processor']}, {machine['threads']} threads, {machine['isa']}"
    return (
        f"octavo {document['octavo']}: {model['name']}, {model['dtype']}\n"
        f"{machine.get('gpu', cpu)}; limits: memory {memory}, matmul {limits['flops_per_second'] / 1e9:.0f} GFLOP/s"
    )


def show_rates(rates: Json) -> str:
    tokens = f"{rates['tokens_per_second']:>9.1f} tok/s" if "tokens_per_second" in rates else ""
    share = "" if rates["bandwidth_share"] is None else f" ({rates['bandwidth_share']:>4.0%})"
    flops = f"{rates['flops_per_second'] / 1e9:>8.1f} GFLOP/s ({rates['flops_share']:>4.0%})"
    return f"{tokens}{rates['bytes_per_second'] / 1e9:>8.1f} GB/s{share}{flops}"
