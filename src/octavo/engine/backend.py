"""The executors as loading sees them: what a graph will take of their memory, and how they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.memory import free_memory
from octavo.executor.base import Executor, Footprint, Sizes
from octavo.graph.builder import Graph
from octavo.prefix_store.base import QUEUED_BYTES, READ_AHEAD
from octavo.scheduler.scheduler import LOOKAHEAD
from octavo.weights.tensor import StoredTensor


class Backend:
    """The native executor, on the CPU."""

    reserve = 100 << 20  # Python, its libraries, and the tokenizer

    def __init__(self, quantization: str | None, cache_dtype: str | None = None):
        self.quantization, self.cache_dtype = quantization, cache_dtype

    def usable_memory(self, share: float) -> int:
        """Bytes that an engine may take, if `share` is its part of the memory that is free now."""
        return int(free_memory() * share)

    def footprint(self, graph: Graph, tensors: Mapping[str, StoredTensor], dtype: str) -> Footprint:
        """Raises ConfigError for a quantization that the weights do not have."""
        from octavo.executor.native.layouts import choose_layouts
        from octavo.executor.native.lowering import lower

        return lower(graph, choose_layouts(graph, tensors, dtype, self.quantization))

    def executor(self, graph: Graph, tensors: Mapping[str, StoredTensor], sizes: Sizes, **options: Any) -> Executor:
        """An executor that has loaded the weights `tensors`; see `NativeExecutor` for `options`."""
        from octavo.executor.native.executor import NativeExecutor

        how = {"quantization": self.quantization, "cache_dtype": self.cache_dtype, **options}
        return NativeExecutor(graph, tensors, sizes, **how)


class TorchBackend(Backend):
    """The torch executor; the share is of all of a CUDA device's memory, others' part included, as in vLLM."""

    def __init__(self, quantization: str | None, device: str, enforce_eager: bool):
        super().__init__(quantization)
        self.device, self.enforce_eager = device, enforce_eager
        self.reserve = 500 << 20 if device == "cpu" else 1 << 30  # PyTorch; on CUDA the workspaces of its libraries

    def usable_memory(self, share: float) -> int:
        if self.device == "cpu":
            return super().usable_memory(share)
        import torch

        free, total = torch.cuda.mem_get_info()
        return max(0, int(total * share) - (total - free))

    def footprint(self, graph: Graph, tensors: Mapping[str, StoredTensor], dtype: str) -> Footprint:
        from octavo.executor.torch.forms import choose_forms
        from octavo.executor.torch.program import compile_graph

        return compile_graph(graph, choose_forms(graph, tensors, self.quantization))

    def executor(self, graph: Graph, tensors: Mapping[str, StoredTensor], sizes: Sizes, **options: Any) -> Executor:
        from octavo.executor.torch.executor import TorchExecutor

        options |= {"device": self.device, "enforce_eager": self.enforce_eager, "quantization": self.quantization}
        return TorchExecutor(graph, tensors, sizes, **options)


def backend_of(config: EngineConfig, quantization: str | None = None) -> Backend:
    """`quantization` is what plain weights are quantized to while they are loaded."""
    if config.executor == "native":
        return Backend(quantization, config.cache_dtype)
    return TorchBackend(quantization, config.device, config.enforce_eager)


def store_bytes(config: EngineConfig) -> int:
    """The most that waits in memory to go to a prefix cache on disk, or has come from it."""
    return 0 if config.prefix_cache_dir is None else QUEUED_BYTES + LOOKAHEAD * READ_AHEAD


def reserve_of(backend: Backend, config: EngineConfig) -> int:
    """Bytes that a memory plan leaves for all else than the model: the process, and what goes to such a cache."""
    return backend.reserve + store_bytes(config)
