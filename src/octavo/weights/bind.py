"""Matching what a model declares with what a checkpoint has."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from octavo.errors import ModelLoadError
from octavo.graph.node import Weight
from octavo.weights.tensor import Checkpoint, StoredTensor


def bind(weights: Iterable[Weight], checkpoint: Checkpoint, ignored: Iterable[str]) -> Mapping[str, StoredTensor]:
    """The stored tensors that weights are, or are parts of, by name.

    Raises ModelLoadError naming a weight that is missing, misshapen, or left over (unless a pattern of `ignored` is
    found in its name).
    """
    found: dict[str, StoredTensor] = {}
    for weight in weights:
        tensor = checkpoint.tensors.get(weight.name)
        if tensor is None:
            raise ModelLoadError(checkpoint.path, weight.name, f"is missing; it should have shape {weight.shape}")
        try:
            tensor.part(weight)
        except ValueError as error:
            raise ModelLoadError(tensor.file, weight.name, str(error)) from None
        found[weight.name] = tensor
    patterns = [re.compile(pattern) for pattern in ignored]
    for name, tensor in checkpoint.tensors.items():
        if name in found:
            continue
        if not any(pattern.search(name) for pattern in patterns):
            raise ModelLoadError(tensor.file, name, "is left over: no part of the model uses it")
        if not tensor.shape or 0 in tensor.shape:
            raise ModelLoadError(tensor.file, name, f"has shape {tensor.shape}, which no weight has")
    return found


def forget_pages(tensor: StoredTensor) -> None:
    """Gives back the memory into which the tensor's part of its file was read; reading it again is still possible."""
    for array in tensor.arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        mapped = base.obj if isinstance(base, memoryview) else base
        if not isinstance(mapped, mmap.mmap):
            continue
        start = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)
