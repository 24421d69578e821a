"""What benchmarks report: one kind of document, and the lines that people read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo import _native
from octavo.cli.bench.figures import make_document
from octavo.cli.speed import machine, measured_bandwidth, model_cost

if TYPE_CHECKING:
    from octavo.config import EngineConfig
    from octavo.llm import LLM

Json = dict[str, Any]


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
        flops = _native.matmul_flops(config.dtype == "float32")
        return {"bytes_per_second": measured_bandwidth(), "flops_per_second": flops}
    from octavo.executor.torch import limits

    flops = limits.matmul_flops(config.dtype)
    return {"bytes_per_second": limits.memory_bandwidth(), "flops_per_second": flops}


def describe(kind: str, llm: LLM, limits: Json, workload: Json, results: Any) -> Json:
    """The document of a benchmark of this machine."""
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
