"""The plan of memory, made from headers before anything is loaded: what the weights, the workspace and the KV cache
take, against what the machine and its container leave free."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from octavo.config import EngineConfig
from octavo.errors import ConfigError, MemoryPlanError, UnsupportedError
from octavo.executor.base import Footprint, Sizes
from octavo.graph.cache import by_window
from octavo.scheduler.blocks import most_held

MOST_BLOCKS = 1 << 30  # of a model that keeps nothing: they are no more than numbers
LEAST_LENGTH = 128  # tokens of a context that is worth proposing
LOGIT_ROWS_BYTES = 16 << 20  # of one step, unless more sequences than that run at once


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan(Sizes):
    """Bytes of everything, and the sizes that follow from them."""

    usable: int
    weights: int
    workspace: int
    kv_bytes_per_block: tuple[int, ...]  # of each group of layers
    state_bytes: int  # that a sequence has beside its pages, and a snapshot of it

    @property
    def kv_cache(self) -> int:
        return sum(group.count * size for group, size in zip(self.groups, self.kv_bytes_per_block, strict=True))

    @property
    def total(self) -> int:
        return self.weights + self.workspace + self.kv_cache

    def __str__(self) -> str:
        parts = (
            f"weights {show(self.weights)} + workspace {show(self.workspace)} + KV cache {show(self.kv_cache)} "
            f"({self.num_blocks * self.block_size} tokens)"
        )
        return f"{parts} = {show(self.total)} of {show(self.usable)}"


def show(size: int) -> str:
    """`size` bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 1 << 30 else f"{size / 2**20:.0f} MiB"


def plan_memory(
    config: EngineConfig,
    footprint: Footprint,
    max_positions: int,
    vocab_size: int,
    usable: int,
    reserve: int,
    encoder: Footprint | None = None,
    source_positions: int = 0,
    *,
    all_rows: bool = False,
) -> MemoryPlan:
    """How large a KV cache is useful and fits into `usable` bytes. Raises MemoryPlanError with the arithmetic.

    `footprint` tells what the executor makes of the graph, `encoder` what it makes of an encoder, whose sources have
    `source_positions`; `reserve` are bytes to leave for everything else. With `all_rows` the output of all tokens of a
    step may be wanted at once.
    """
    largest, dtype = _largest(config, max_positions, vocab_size, source_positions), config.dtype
    if all_rows:
        largest = replace(largest, max_logit_rows=largest.max_num_batched_tokens)
    length, batch = largest.max_model_len, largest.max_num_batched_tokens
    weights = footprint.weight_bytes(dtype)
    workspace = reserve + footprint.workspace_bytes(dtype, largest)
    if encoder is not None:
        one = replace(largest, max_num_batched_tokens=source_positions, max_num_seqs=1, max_logit_rows=0)
        weights += encoder.weight_bytes(dtype)
        workspace += encoder.workspace_bytes(dtype, replace(one, max_model_len=source_positions))
    plan = MemoryPlan(
        **asdict(replace(largest, windows=tuple(by_window(footprint.layers)))),
        usable=usable,
        weights=weights,
        workspace=workspace,
        kv_bytes_per_block=footprint.page_bytes(config.cache_dtype, config.block_size),
        state_bytes=footprint.state_bytes,
    )
    plan = _with_snapshots(plan, config)
    if config.cache_dtype == "int8" and not any(plan.kv_bytes_per_block):
        raise UnsupportedError("kv_cache_dtype", "int8", "the model keeps no keys and values; leave it out")
    blocks_of_source = -(-source_positions // config.block_size)
    blocks_of_one = most_held(length, batch, config.block_size, plan.windows[0]) + blocks_of_source
    affordable = _most_blocks(plan, plan.usable - plan.weights - plan.workspace)
    wanted = _blocks_asked_for(config, plan) or blocks_of_one * config.max_num_seqs
    enough = blocks_of_one
    if not config.max_model_len:
        enough = min(blocks_of_one, blocks_of_source + -(-2048 // config.block_size))
    if affordable < min(enough, wanted):
        raise _refusal(plan, enough, affordable, blocks_of_source)
    num_blocks = min(wanted, affordable)
    if num_blocks <= blocks_of_source:
        reason = f"a source takes {blocks_of_source} blocks, and a whole request up to {blocks_of_one}; give that many"
        option = "kv_cache_memory_bytes" if config.num_gpu_blocks_override is None else "num_gpu_blocks_override"
        raise ConfigError(option, getattr(config, option), reason)
    if num_blocks < blocks_of_one:
        length = min(length, (num_blocks - blocks_of_source) * config.block_size)
    return replace(plan, num_blocks=num_blocks, max_model_len=length)


def _with_snapshots(plan: MemoryPlan, config: EngineConfig) -> MemoryPlan:
    """The plan with room for states that others may go on from: two for each sequence, in an eighth of what is left."""
    if not plan.state_bytes or not config.enable_prefix_caching:
        return plan
    affordable = (plan.usable - plan.weights - plan.workspace) // 8 // plan.state_bytes
    count = max(0, min(2 * plan.max_num_seqs, affordable))
    return replace(plan, num_snapshots=count, workspace=plan.workspace + count * plan.state_bytes)


def _largest(config: EngineConfig, max_positions: int, vocab_size: int, source_positions: int) -> Sizes:
    length = config.max_model_len or max_positions
    batch = max(config.max_num_batched_tokens, config.max_num_seqs)
    return Sizes(
        vocab_size=vocab_size,
        num_blocks=0,
        block_size=config.block_size,
        max_num_batched_tokens=batch if config.enable_chunked_prefill else max(batch, length),
        max_num_seqs=config.max_num_seqs,
        max_logit_rows=max(config.max_num_seqs, min(256, LOGIT_ROWS_BYTES // (4 * vocab_size))),
        max_model_len=length,
        source_positions=source_positions,
    )


def _blocks_asked_for(config: EngineConfig, plan: MemoryPlan) -> int | None:
    if config.num_gpu_blocks_override is not None or config.kv_cache_memory_bytes is None:
        return config.num_gpu_blocks_override
    num_blocks = _most_blocks(plan, config.kv_cache_memory_bytes)
    if not num_blocks:
        reason = f"a block of {plan.block_size} tokens takes {sum(plan.kv_bytes_per_block)} bytes; give that or more"
        raise ConfigError("kv_cache_memory_bytes", config.kv_cache_memory_bytes, reason)
    return num_blocks


def _most_blocks(plan: MemoryPlan, size: int) -> int:
    """The blocks, of the first group of layers, of the largest KV cache that takes no more than `size` bytes."""
    counts = range(MOST_BLOCKS + 1)
    return max(0, bisect_right(counts, size, key=lambda count: replace(plan, num_blocks=count).kv_cache) - 1)


def _refusal(plan: MemoryPlan, blocks: int, affordable: int, of_source: int) -> MemoryPlanError:
    kv = replace(plan, num_blocks=blocks).kv_cache
    total = plan.weights + plan.workspace + kv
    message = (
        f"the model does not fit: weights {show(plan.weights)} + workspace {show(plan.workspace)} + KV cache "
        f"{show(kv)} for one request of {blocks * plan.block_size} tokens = {show(total)}, "
        f"but {show(max(0, plan.usable))} may be used"
    )
    fits = (affordable - of_source) * plan.block_size
    if fits >= LEAST_LENGTH:
        return MemoryPlanError(message, f"max_model_len={fits} would fit", fits)
    return MemoryPlanError(message, f"a smaller model, or {show(total - plan.usable)} more free memory would do")


def free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its container's if that is less."""
    with open("/proc/meminfo") as file:
        lines = dict(line.split(":", 1) for line in file)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit = _cgroup_free()
    return free if limit is None else min(free, limit)


def _cgroup_free() -> int | None:
    """What the control group of this process leaves, version 2 or 1; page cache counts as free."""
    for directory, limit, usage, cache in _cgroup_files():
        try:
            text = Path(directory, limit).read_text().strip()
            if text == "max" or int(text) >= 1 << 60:
                continue
            stats = dict(line.split() for line in Path(directory, "memory.stat").read_text().splitlines())
            return int(text) - int(Path(directory, usage).read_text()) + int(stats.get(cache, 0))
        except (OSError, ValueError):
            continue
    return None


def _cgroup_files() -> list[tuple[str, str, str, str]]:
    """Directories, and the names of the files and of the statistic in them that matter."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = "/sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = "/sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        found += [(root + path, *names), (root, *names)]
    return found
