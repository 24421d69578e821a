"""A plan for people, and as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.advice import what_fits
from octavo.engine.memory import show
from octavo.plan.estimate import Estimate, elsewhere, estimate, speed_line, usable_by, variants
from octavo.plan.machines import Machine
from octavo.plan.source import Opened
from octavo.support import Forecast, describe
from octavo.weights import DEFAULT_MODEL
from octavo.weights.known import public_name

HEAD = ("format", "weights", "KV/token", "cache", "total", "fits", "one, tok/s", "many", "prompts")
Options = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is planned for, the answer for it, other formats, and the options that fit where the asked ones do not."""

    about: Forecast
    origin: str
    machine: Machine
    asked: Estimate
    others: list[Estimate]
    ways: list[Options]  # changes of options, each planned
    commands: list[str]  # that run it: as asked if that fits
    fitting_machines: list[str]  # known GPUs on which it fits as asked, the smallest first

    @property
    def fits(self) -> bool:
        return self.asked.fits


def make_plan(config: EngineConfig, opened: Opened, machine: Machine, said: Mapping[str, Any]) -> Plan:
    """`said` are the options as they were typed, for the commands. Raises ModelLoadError or ConfigError."""
    checkpoint = opened.checkpoint
    asked, declared, memory = estimate(config, checkpoint, machine)
    others = [one for one in variants(config, checkpoint, machine) if one.options]
    ways = [] if asked.fits else what_fits(config, checkpoint, lambda model: usable_by(model, machine))
    if config.model is None and checkpoint.declared is None:
        said = {"model": DEFAULT_MODEL, **said}
    commands = [_command(said, changes) for changes in (ways or ([{}] if asked.fits else []))]
    there, machines = elsewhere(config, checkpoint, machine, said)
    about = replace(describe(declared, memory), model=public_name(said.get("model") or checkpoint.path.name))
    return Plan(about, opened.origin, machine, asked, [*others, *there], ways, commands, machines)


def _command(said: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """`octavo serve` with what was typed but what is secret in a URL, and the changes."""
    words = ["octavo", "serve", public_name(said.get("model") or "MODEL")]
    for name, value in {**said, **changes}.items():
        if name == "model" or value is None:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            words += [flag, ",".join(value) if isinstance(value, tuple) else text]
    return shlex.join(words)


def as_json(plan: Plan) -> dict[str, Any]:
    """Sizes in bytes, rates in tokens per second."""
    about = {name: value for name, value in asdict(plan.about).items() if name not in ("memory", "summary", "path")}
    machine = {"name": plan.machine.name, "device": plan.machine.device, "memory": plan.machine.memory}
    rows = [_row(plan.asked), *map(_row, plan.others)]
    return {
        "model": plan.about.model,
        "fits": plan.fits,
        "origin": plan.origin,
        "machine": machine,
        "about": about,
        "asked": rows[0],
        "others": rows[1:],
        "ways": plan.ways,
        "commands": plan.commands,
        "fitting_machines": plan.fitting_machines,
    }


def _row(one: Estimate) -> dict[str, Any]:
    whole = one.weights + one.workspace + one.process + one.asked_kv_cache
    return {**asdict(one), "total": one.total, "asked_total": whole, "concurrency": one.requests}


def lines(plan: Plan, about: Sequence[str]) -> Iterator[str]:
    """`about` are lines on the model."""
    asked, machine = plan.asked, plan.machine
    where = f"{machine.name}, {show(machine.memory)} {'free' if machine.is_here else 'in all'}"
    yield from about
    yield f"  {'known from':<14}{plan.origin}"
    yield f"  {'machine':<14}{where}; an engine may take {show(max(0, asked.usable))} of it"
    yield ""
    yield from _memory(asked)
    yield f"  {'speed':<14}{speed_line(asked.speed)}"
    yield ""
    yield from _table([asked, *plan.others])
    yield ""
    yield from _ending(plan)


def _memory(one: Estimate) -> Iterator[str]:
    sizes = {"weights": one.weights, "workspace": one.workspace, "process": one.process}
    for name, size in sizes.items():
        yield f"  {name:<14}{show(size)}"
    token = f"{one.kv_per_token / 1024:.4g} KiB for each token" if one.kv_per_token else "none"
    state = f" and {show(one.state_per_request)} for each request" if one.state_per_request else ""
    asked = f"{show(one.asked_kv_cache)} for {one.asked_requests} requests of {one.asked_len:,} tokens"
    yield f"  {'KV cache':<14}{token}{state}; {asked}"
    if one.fits and one.kv_cache < one.asked_kv_cache:
        room = f"{show(one.kv_cache)}, {one.kv_tokens:,} tokens: {one.requests:.3g} requests of {one.max_model_len:,}"
        yield f"  {'':<14}there is room for {room}"
    if one.fits:
        yield f"  {'total':<14}{show(one.total)} when the cache is full"
    else:
        yield f"  {'':<14}{one.reason}"


def _table(rows: Sequence[Estimate]) -> Iterator[str]:
    cells = [HEAD, *(tuple(_cells(row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    for row in cells:
        first, *rest = zip(row, widths, strict=True)
        yield "  " + "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in rest)]).rstrip()


def _cells(one: Estimate) -> Iterator[str]:
    speed = one.speed
    whole = one.weights + one.workspace + one.process + one.asked_kv_cache
    yield one.label
    yield show(one.weights)
    yield f"{one.kv_per_token / 1024:.4g} KiB"
    yield show(one.asked_kv_cache)
    yield show(whole)
    if not one.fits:
        yield "no"
    elif one.kv_cache < one.asked_kv_cache:
        yield f"{one.requests:.3g} × {one.max_model_len:,}"
    else:
        yield "yes"
    rates = (speed.decode_alone, speed.decode_together, speed.prefill) if speed is not None else (None,) * 3
    for rate in rates:
        yield "" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _ending(plan: Plan) -> Iterator[str]:
    if plan.fits:
        yield f"It fits. {plan.commands[0]}"
        return
    yield "It does not fit as asked."
    for changes, command in zip(plan.ways, plan.commands, strict=True):
        yield f"This does, with {', '.join(f'{name} {value}' for name, value in changes.items())}:"
        yield f"  {command}"
    if plan.ways:
        return
    need = plan.asked.weights + plan.asked.workspace + plan.asked.process
    least = min([plan.asked, *plan.others], key=lambda one: one.weights + one.workspace + one.process)
    smallest = least.weights + least.workspace + least.process
    other = f", {show(smallest)} {least.label}" if smallest < need else ""
    yield f"No format of it does: {show(need)} are needed before any text{other}."
    if plan.fitting_machines:
        yield f"As asked it fits on {', '.join(plan.fitting_machines[:4])} (octavo plan --machine NAME)."
    yield "Tensor parallelism is not there yet; a smaller model, or a machine with more memory, would do."
