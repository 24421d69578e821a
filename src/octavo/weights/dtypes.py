"""The data types of safetensors files, as numpy sees them; of numbers that numpy does not have, the bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.weights.blocks import Floats
from octavo.weights.layout import E4M3
from octavo.weights.tensor import StoredTensor

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "BOOL": np.dtype("u1"),
}

# What the scales of OCP's microscaling formats stand for: powers of two (Microscaling Formats 1.0, 5.4.1).
_E8M0: Floats = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.float32(np.nan))


def array_of(tensor: StoredTensor) -> NDArray[Any]:
    """The file's own numbers, not copied, in the tensor's shape."""
    return tensor.data.view(DTYPES[tensor.format]).reshape(tensor.shape)


def floats(array: NDArray[Any], dtype: str) -> Floats:
    """Float32 of the numbers of a data type, of which U8 stands for F8_E8M0: files have both names for it."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        return E4M3.take(array)
    if dtype in ("F8_E8M0", "U8"):
        return _E8M0.take(array)
    return array.astype(np.float32, copy=False)
