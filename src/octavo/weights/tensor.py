"""A tensor as its file stores it, and what every kind of checkpoint offers to the loader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# format -> (elements of a block, bytes of a block). Blocks run along the innermost axis.
# Source: the block structures of ggml (ggml-common.h); plain types are blocks of one element.
FORMATS: dict[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}


def nbytes(format: str, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor of `format` and row-major `shape` takes.

    Raises ValueError if the innermost dimension is not a whole number of blocks.
    """
    block, size = FORMATS[format]
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
