"""Matching what a model declares with what a checkpoint has."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from octavo.errors import ModelLoadError
from octavo.graph.node import Weight
from octavo.weights.blocks import Bytes
from octavo.weights.tensor import Checkpoint, Rearranged, StoredTensor

_TENSORFLOW = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")
_PARTS = {"gamma": "weight", "beta": "bias"}


def bind(weights: Iterable[Weight], checkpoint: Checkpoint, ignored: Iterable[str]) -> Mapping[str, StoredTensor]:
    """The stored tensors that weights are, or are parts of, by name.

    A checkpoint of the model without its logits has names without their first part ("model."); they are found, too, and
    so are norms whose weight and bias are called gamma and beta, as TensorFlow has them.
    So are the vectors of heads, each stored by itself, of a weight that has a row for each.

    Raises ModelLoadError naming a weight that is missing, misshapen, or left over (unless a pattern of `ignored` is
    found in its name).
    """
    weights = list(weights)
    found: dict[str, StoredTensor] = {}
    tensors = _named_in_full(checkpoint.tensors, weights)
    tensors = _gathered(tensors, weights)
    for weight in weights:
        tensor = tensors.get(weight.name)
        if tensor is None:
            raise ModelLoadError(checkpoint.path, weight.name, f"is missing; it should have shape {weight.shape}")
        try:
            tensor.part(weight)
        except ValueError as error:
            raise ModelLoadError(tensor.file, weight.name, str(error)) from None
        found[weight.name] = tensor
    patterns = [re.compile(pattern) for pattern in ignored]
    for name, tensor in tensors.items():
        if name in found:
            continue
        if not any(pattern.search(name) for pattern in patterns):
            raise ModelLoadError(tensor.file, name, "is left over: no part of the model uses it")
        if 0 in tensor.shape:
            raise ModelLoadError(tensor.file, name, f"has shape {tensor.shape}, which no weight has")
    return found


def _named_in_full(tensors: Mapping[str, StoredTensor], weights: list[Weight]) -> Mapping[str, StoredTensor]:
    """The tensors by the names that a model's declaration has, each with its own."""
    first, _, rest = weights[0].name.partition(".") if weights else ("", "", "")
    lacks_first = rest and weights[0].name not in tensors and rest in tensors
    found = {}
    for stored, tensor in tensors.items():
        name = _TENSORFLOW.sub(lambda match: _PARTS[match[1]], stored)
        if lacks_first and not name.startswith("lm_head."):
            name = f"{first}.{name}"
        found[name] = tensor if name == stored else replace(tensor, name=name)
    return found


def _gathered(tensors: Mapping[str, StoredTensor], weights: list[Weight]) -> Mapping[str, StoredTensor]:
    """With vectors "a.0.weight", "a.1.weight" … as rows of "a.weight", where that is asked for and is not there."""
    found = dict(tensors)
    for name, shape in {(weight.name, weight.shape) for weight in weights if weight.name not in tensors}:
        first, _, kind = name.rpartition(".")
        names = [f"{first}.{i}.{kind}" for i in range(shape[0] if len(shape) == 2 else 0)]
        if names and all(one in found and found[one].shape == shape[1:] for one in names):
            rows = [found.pop(one) for one in names]
            arrays = tuple(array for row in rows for array in row.arrays)
            found[name] = StoredTensor(name, "F32", shape, Rearranged(arrays, _rows_of(rows)), file=rows[0].file)
    return found


def _rows_of(rows: list[StoredTensor]) -> Callable[..., Bytes]:
    return lambda *arrays: np.concatenate([row.values() for row in rows]).view(np.uint8)


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
