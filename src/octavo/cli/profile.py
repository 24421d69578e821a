"""What --profile shows: the time of every op of an engine's steps, beside the machine's measured limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from octavo import _native
from octavo.cli.parser import UsageError

if TYPE_CHECKING:
    from octavo.config import EngineConfig
    from octavo.executor.native.profiler import OpProfile, ProfiledExecutor, StepsProfile
    from octavo.llm import LLM

Json = dict[str, Any]
KINDS = {"prefill": "steps with tokens of prompts", "decode": "steps of one token for each request"}
HEAD = ("ms/step", "share", "calls/step", "GB/s", "GFLOP/s", "of limit")
NAME_WIDTH, WIDTH = 34, 11  # of 100 columns


def check(options: Mapping[str, Any]) -> None:
    """Raises UsageError where a model with these options would not run on the native executor, before it is loaded."""
    from octavo.config import EngineConfig

    config, _ = EngineConfig.resolve(options)
    if config.executor != "native":
        raise UsageError(f"--profile: the {config.executor} executor does not time its ops; the native one does")


def start(llm: LLM) -> ProfiledExecutor:
    """Has the engine of `llm` note where its time goes from now on. The options of `llm` have passed `check`."""
    from octavo.engine.engine import Engine
    from octavo.executor.native.executor import NativeExecutor
    from octavo.executor.native.profiler import ProfiledExecutor

    assert isinstance(llm.model.executor, NativeExecutor)
    executor = ProfiledExecutor(llm.model.executor)
    llm.engine = Engine(replace(llm.model, executor=executor))
    return executor


def measured(executor: ProfiledExecutor, config: EngineConfig, limits: Json | None = None) -> Json:
    """The `profile` of benchmarks/schema.md; `limits` are those of `measure_limits`, if they are known."""
    from octavo.cli.speed import measure_limits

    dtype, limits = config.dtype, limits or measure_limits(config)
    kinds = {"prefill": executor.prefill, "decode": executor.decode}
    rows = {name: steps.rows(executor.tape.ops, dtype) for name, steps in kinds.items() if steps.number}
    layouts = {row.layout for found in rows.values() for row in found if row.layout} - {dtype}
    flops = {layout: _native.matmul_flops(layout) for layout in sorted(layouts)}
    machine = limits | {"flops_per_second": {dtype: limits["flops_per_second"], **flops}}
    found = {name: _of_steps(kinds[name], rows[name], machine) if name in rows else None for name in KINDS}
    return {"limits": machine, **found}


def _of_steps(steps: StepsProfile, rows: list[OpProfile], limits: Json) -> Json:
    ops = [_of_op(row, steps.seconds, limits) for row in sorted(rows, key=lambda row: -row.seconds)]
    return {"steps": steps.number, "tokens": steps.tokens, "seconds": steps.seconds, "ops": ops}


def _of_op(row: OpProfile, seconds: float, limits: Json) -> Json:
    bandwidth, flops = limits["bytes_per_second"], limits["flops_per_second"]
    least = max(row.read_bytes / (bandwidth or float("inf")), row.flops / flops[row.layout] if row.layout else 0.0)
    return {
        "op": row.name,
        "seconds": row.seconds,
        "share": row.seconds / seconds,
        "calls": row.calls,
        "read_bytes": row.read_bytes,
        "flops": row.flops,
        "limit_share": least / row.seconds if row.layout and row.seconds else None,
    }


def table(profile: Json) -> str:
    """For people: at most 100 columns wide."""
    bandwidth, flops = profile["limits"]["bytes_per_second"], profile["limits"]["flops_per_second"]
    memory = "unknown" if bandwidth is None else f"{bandwidth / 1e9:.1f} GB/s"
    rates = ", ".join(f"{layout} {rate / 1e9:.0f}" for layout, rate in flops.items())
    lines = [f"limits: memory {memory}; matmul in GFLOP/s: {rates}"]
    for name, meaning in KINDS.items():
        if profile[name] is not None:
            lines += ["", *_lines(name, meaning, profile[name])]
    return "\n".join(lines)


def _lines(name: str, meaning: str, found: Json) -> list[str]:
    number = found["steps"]
    whole = {key: sum(op[key] for op in found["ops"]) for key in ("seconds", "share", "read_bytes", "flops")}
    whole["limit_share"] = sum(op["share"] * (op["limit_share"] or 0) for op in found["ops"])
    rows = [*found["ops"], {"op": "all", "calls": None, **whole}]
    return [
        f"{name}, {meaning}: {number} with {found['tokens']} tokens",
        f"{'':<{NAME_WIDTH}}" + "".join(f"{word:>{WIDTH}}" for word in HEAD),
        *(f"{shorten(row['op'], NAME_WIDTH):<{NAME_WIDTH}}{_cells(row, number)}".rstrip() for row in rows),
    ]


def _cells(row: Json, steps: int) -> str:
    seconds = row["seconds"]
    cells = (
        f"{1000 * seconds / steps:.3f}",
        f"{row['share']:.1%}",
        "" if row["calls"] is None else f"{row['calls'] / steps:.4g}",
        f"{row['read_bytes'] / seconds / 1e9:.1f}" if row["read_bytes"] and seconds else "",
        f"{row['flops'] / seconds / 1e9:.1f}" if row["flops"] and seconds else "",
        "" if row["limit_share"] is None else f"{row['limit_share']:.0%}",
    )
    return "".join(f"{cell:>{WIDTH}}" for cell in cells)


def shorten(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
