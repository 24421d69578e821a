"""The plan of one model with one set of options on one machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from octavo.config import AT_LOAD, EngineConfig, defaults_on
from octavo.engine.backend import backend_of, reserve_of, store_bytes
from octavo.engine.memory import MemoryPlan, show
from octavo.engine.planning import DeclaredModel, declare_model
from octavo.errors import ConfigError, MemoryPlanError, OctavoError
from octavo.plan.machines import GPUS, Machine, this_cpu
from octavo.plan.speed import Described, Speed, expected_speed
from octavo.weights import Checkpoint

EVERYTHING = 1 << 60  # bytes, in which any model fits
# What a process has beside weights, workspace and cache: Python with numpy and the tokenizers library, and what a
# vocabulary takes for each token as the tokenizer holds it. Measured by benchmarks/plan.py.
PROCESS_BYTES, BYTES_PER_TOKEN = 54 << 20, 250


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of a model as some options have it, if all that is asked for had room, and what of it has.

    `fits` says whether a request of the asked context does, or of 2,048 tokens where none is asked for.
    `max_model_len` and `kv_cache` are those that there is room for; both 0 where it does not fit.
    """

    label: str
    options: Mapping[str, Any]  # that differ from the asked ones
    device: str
    dtype: str
    kv_cache_dtype: str
    weights: int
    workspace: int
    process: int
    kv_per_token: float
    state_per_request: int
    asked_len: int
    asked_requests: int
    asked_kv_cache: int
    usable: int
    fits: bool
    max_model_len: int
    kv_tokens: int
    kv_cache: int
    speed: Speed | None
    reason: str | None = None  # why it does not fit

    @property
    def total(self) -> int:
        """With a full KV cache."""
        return self.weights + self.workspace + self.process + self.kv_cache

    @property
    def requests(self) -> float:
        """Requests of the longest context that have room at once."""
        return self.kv_tokens / self.max_model_len if self.max_model_len else 0.0


def estimate(
    config: EngineConfig,
    checkpoint: Checkpoint,
    machine: Machine,
    label: str = "as asked",
    options: Mapping[str, Any] | None = None,
    *,
    measures: bool = True,
) -> tuple[Estimate, DeclaredModel, MemoryPlan]:
    """Also the model, and its memory: where it does not fit, that of a machine on which it would.

    Raises ModelLoadError or ConfigError.
    """
    declared = declare_model(config, checkpoint)
    config = declared.config
    whole = declared.memory_plan(EVERYTHING, reserve=0)
    usable, reason, memory = usable_by(declared, machine), None, None
    try:
        memory = declared.memory_plan(usable)
    except MemoryPlanError as error:
        reason = error.arithmetic
    blocks = memory.num_blocks if memory is not None else 0
    speed = expected_speed(declared, memory or whole, machine, measures=measures)
    found = Estimate(
        label=label,
        options=options or {},
        device=config.device,
        dtype=config.dtype,
        kv_cache_dtype=config.cache_dtype,
        weights=whole.weights,
        workspace=whole.workspace if memory is None else memory.workspace - reserve_of(declared.backend, config),
        process=process_bytes(config, whole.vocab_size),
        kv_per_token=sum(whole.kv_bytes_per_block) / whole.block_size,
        state_per_request=whole.state_bytes,
        asked_len=whole.max_model_len,
        asked_requests=config.max_num_seqs,
        asked_kv_cache=whole.kv_cache,
        usable=usable,
        fits=memory is not None,
        max_model_len=memory.max_model_len if memory is not None else 0,
        kv_tokens=blocks * whole.block_size,
        kv_cache=memory.kv_cache if memory is not None else 0,
        speed=speed,
        reason=reason,
    )
    return found, declared, memory or whole


def usable_by(declared: DeclaredModel, machine: Machine) -> int:
    """What an engine may take of a machine's memory."""
    return machine.usable(declared.config.gpu_memory_utilization)


def process_bytes(config: EngineConfig, vocab_size: int) -> int:
    """What comes to a model's own bytes: on a GPU, what the libraries of CUDA take; what goes to a cache on disk."""
    if config.executor != "native":
        return backend_of(config).reserve + store_bytes(config)
    return PROCESS_BYTES + BYTES_PER_TOKEN * vocab_size + store_bytes(config)


def variants(config: EngineConfig, checkpoint: Checkpoint, machine: Machine) -> Iterator[Estimate]:
    """Other formats of weights and caches on the same machine. Those that the model can't have are left out."""
    for label, options in _formats(config):
        try:
            yield estimate(replace(config, **options), checkpoint, machine, label, options)[0]
        except (ConfigError, MemoryPlanError):
            continue


def _formats(config: EngineConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    halves = "bfloat16" if config.dtype == "float32" else config.dtype
    caches = ("auto", "int8") if config.executor == "native" else ("auto",)
    for quantization in (None, *AT_LOAD):
        for dtype in (halves, "float32") if quantization is None else (halves,):
            for cache in caches:
                label = f"{quantization} at load" if quantization else f"as stored, in {dtype}"
                label += ", int8 KV" if cache == "int8" else ""
                options = {"dtype": dtype, "quantization": quantization, "kv_cache_dtype": cache}
                changed = {name: value for name, value in options.items() if getattr(config, name) != value}
                yield label, changed


def elsewhere(
    config: EngineConfig, checkpoint: Checkpoint, machine: Machine, said: Collection[str]
) -> tuple[list[Estimate], list[str]]:
    """For a CPU, the smallest known GPU for each of three formats; for a GPU, this machine's CPU.

    Also the known GPUs on which the model fits as it is asked for, the smallest first. Options that were not `said`
    have the defaults of the other device.
    """
    rows, names = [], []
    for quantization in (config.quantization, *(one for one in ("int8", "int4") if one != config.quantization)):
        changed: dict[str, Any] = {
            "device": "cuda",
            "executor": "torch",
            "quantization": quantization,
            "kv_cache_dtype": "auto",
            **_unsaid("cuda", said),
        }
        try:
            there = replace(config, **changed)
            fitting = list(_gpus(declare_model(there, checkpoint)))
        except OctavoError:
            continue
        if quantization == config.quantization:
            names = [gpu.name for gpu in fitting]
        if fitting and machine.device == "cpu":
            smallest = fitting[0]
            options: dict[str, Any] = {"quantization": quantization}
            options |= {} if config.dtype == "float32" else {"dtype": smallest.place().dtype}
            label = f"{smallest.name}, {f'{quantization} at load' if quantization in AT_LOAD else 'as stored'}"
            rows.append(estimate(replace(there, **options), checkpoint, smallest, label, options)[0])
    if machine.device == "cuda":
        dtype = "bfloat16" if config.dtype == "float16" else config.dtype
        options = {"device": "cpu", "executor": "native", "dtype": dtype}
        try:
            label = "this machine's CPU"
            there = replace(config, **options, **_unsaid("cpu", said))
            rows.append(estimate(there, checkpoint, this_cpu(), label, options)[0])
        except OctavoError:  # it can't be there
            pass
    return rows, names


def _unsaid(device: str, said: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in defaults_on(device).items() if name not in said}


def _gpus(declared: DeclaredModel) -> Iterator[Machine]:
    """Those on which a model fits, the smallest first."""
    for gpu in sorted(GPUS.values(), key=lambda gpu: gpu.memory):
        try:
            declared.memory_plan(usable_by(declared, gpu))
        except MemoryPlanError:
            continue
        yield gpu


def two_lines(model: Described, memory: MemoryPlan) -> tuple[str, str]:
    """What is said of a model that is loaded: its memory, and its speed if this machine's limits are known."""
    config, process = model.config, process_bytes(model.config, memory.vocab_size)
    workspace = memory.workspace - reserve_of(backend_of(config), config)
    tokens = memory.num_blocks * memory.block_size
    machine = Machine("this machine", config.device, memory.usable, is_here=True)
    parts = {"weights": memory.weights, "workspace": workspace, "process": process, "KV cache": memory.kv_cache}
    said = " + ".join(f"{name} {show(size)}" for name, size in parts.items())
    room = f"{tokens:,} tokens, {tokens / memory.max_model_len:.3g} × {memory.max_model_len:,}"
    first = f"plan: {said} ({room}) = {show(sum(parts.values()))} of {show(memory.usable)}"
    return first, f"expected: {speed_line(expected_speed(model, memory, machine, measures=False))}"


def speed_line(speed: Speed | None) -> str:
    if speed is None:
        return "not known; `octavo plan` measures this machine's limits, for the native executor"
    parts = []
    if speed.decode_alone is not None and speed.decode_together is not None:
        parts.append(f"{_rate(speed.decode_alone)} tok/s of one request")
        if speed.together > 1:
            parts.append(f"{_rate(speed.decode_together)} tok/s of {speed.together} at once")
    parts.append(f"prompts are read at {_rate(speed.prefill)} tok/s")
    return f"{', '.join(parts)} (each ± {speed.error:.0%})".replace("%", " %")


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
