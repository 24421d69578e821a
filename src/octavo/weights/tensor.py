"""A tensor as its file stores it, and what every kind of checkpoint offers to the loader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Format(NamedTuple):
    """A stored format: blocks of `elements` values in `bytes` bytes, along the innermost axis; plain types have one."""

    elements: int
    bytes: int
    ggml_type: int  # its number in GGUF files


# Source: the block structures of ggml (ggml-common.h) and its enum ggml_type.
FORMATS = {
    "F32": Format(1, 4, 0),
    "F16": Format(1, 2, 1),
    "BF16": Format(1, 2, 30),
    "Q4_0": Format(32, 18, 2),
    "Q4_1": Format(32, 20, 3),
    "Q5_0": Format(32, 22, 6),
    "Q5_1": Format(32, 24, 7),
    "Q8_0": Format(32, 34, 8),
    "Q2_K": Format(256, 84, 10),
    "Q3_K": Format(256, 110, 11),
    "Q4_K": Format(256, 144, 12),
    "Q5_K": Format(256, 176, 13),
    "Q6_K": Format(256, 210, 14),
}


def nbytes(format: str, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor of `format` and row-major `shape` takes.

    Raises ValueError if the innermost dimension is not a whole number of blocks.
    """
    block, size, _ = FORMATS[format]
    innermost = shape[-1] if shape else 1
    if innermost % block:
        raise ValueError(f"rows of {innermost} elements are not a multiple of {format}'s block of {block}")
    return math.prod(shape) // block * size


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor as it lies in its file: nothing is decoded, nothing is copied.

    `shape` is row-major, outermost first. `data` is a read-only view of the mapped file, exactly
    `nbytes(format, shape)` long. `row_order`, where it is not None, has shape [shape[0]]: row i of the tensor
    is stored as row `row_order[i]` (rows are independent of each other in every format).
    """

    name: str
    format: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    row_order: NDArray[np.int32] | None = None


class Checkpoint(Protocol):
    """A model's weights and its configuration, named and spelt as Hugging Face checkpoints do."""

    @property
    def path(self) -> Path:
        """The directory or the file that was opened."""

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says, or would say."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...

    def file_of(self, name: str) -> str:
        """The file that holds the tensor `name`: for error messages."""
