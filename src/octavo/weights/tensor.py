"""A tensor as its file stores it, and what every kind of checkpoint offers to the loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.graph.node import Node, Weight
from octavo.weights.blocks import Bytes, Floats
from octavo.weights.layout import LAYOUTS, Layout


@dataclass(frozen=True, slots=True, eq=False)
class Rearranged:
    """Bytes that are made of arrays of a file, whenever they are asked for: those of weights with scales apart."""

    arrays: tuple[NDArray[Any], ...]
    make: Callable[..., Bytes]
    one_group: bool = False  # of every row: its blocks have the same scale

    def expert(self, number: int, shape: tuple[int, ...]) -> Rearranged:
        """One matrix of a stack, of which each array has as many. Raises ValueError."""
        if len(shape) != 3 or any(array.shape[0] != shape[0] for array in self.arrays):
            raise ValueError(f"has shape {shape}, of which no single matrices are stored")
        return replace(self, arrays=tuple(array[number] for array in self.arrays))


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor as it lies in its file: nothing is decoded, nothing is copied.

    `shape` is row-major, outermost first. `source` is a read-only view of the mapped file, in the layout that is named
    `format`, and contiguous unless it is a transposed part; or how such bytes are made. `row_order`, where it is not
    None, has shape [shape[0]]: row i is the stored row `row_order[i]` (in every layout, rows are independent of each
    other). `column_order`, where it is not None, has shape [shape[1]] of a matrix: stored column i is the column
    `column_order[i]`. `scales` are what stored rows are multiplied with, in formats that have them: float32, one each.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    source: Bytes | Rearranged
    row_order: NDArray[np.int32] | None = None
    column_order: NDArray[np.int32] | None = None
    scales: Floats | None = None
    file: Path = Path()  # that it lies in, for error messages

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.format]

    @property
    def data(self) -> Bytes:
        """The bytes in the layout; of a rearranged tensor they are new ones each time."""
        return self.source.make(*self.source.arrays) if isinstance(self.source, Rearranged) else self.source

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """What the file has of it."""
        return self.source.arrays if isinstance(self.source, Rearranged) else (self.source,)

    def values(self) -> Floats:
        """Decoded, float32 in the tensor's own shape, rows in their own order."""
        data = self.data
        if not data.size:
            return np.empty(self.shape, np.float32)
        decoded = self.layout.decode(data.reshape(-1, self.layout.block_bytes))
        if self.scales is not None:
            decoded = decoded.reshape(len(self.scales), -1) * self.scales[:, None]
        if self.column_order is not None:
            decoded = decoded.reshape(-1, len(self.column_order))[:, np.argsort(self.column_order)]
        if self.row_order is None:
            return decoded.reshape(self.shape)
        return decoded.reshape(-1, *self.shape[1:])[self.row_order]

    def part(self, weight: Weight) -> StoredTensor:
        """What `weight` is of this: an expert of a stack, transposed, some rows, normalised. Raises ValueError."""
        part = self
        if weight.expert is not None:
            part = part._as_stack(weight)._expert(weight.expert)
        if weight.transposed:
            part = part._transposed()
        if weight.rows is not None:
            part = part._rows(weight.rows.blocks, weight.rows.block_rows, weight.rows.start, weight.rows.stop)
        if weight.normalised:
            part = part._normalised()
        if part.shape != weight.shape and _without_ones(part.shape) == _without_ones(weight.shape):
            part = replace(part, shape=weight.shape)
        if part.shape != weight.shape:
            where = "" if part is self else f", of which {part.shape} would be taken"
            raise ValueError(f"has shape {self.shape}{where}, but config.json makes it {weight.shape}")
        return part

    def _as_stack(self, weight: Weight) -> StoredTensor:
        """Matrices one below the other as a stack of them; others as they are."""
        if len(self.shape) != 2 or len(weight.shape) != 2 or weight.rows is not None:
            return self
        rows = weight.shape[1 if weight.transposed else 0]
        return replace(self, shape=(self.shape[0] // rows, rows, self.shape[1]))

    def _expert(self, number: int) -> StoredTensor:
        if len(self.shape) < 2 or not 0 <= number < self.shape[0] or self.row_order is not None:
            raise ValueError(f"has shape {self.shape}, which is no stack with a matrix number {number}")
        if isinstance(self.source, Rearranged):
            return replace(self, shape=self.shape[1:], source=self.source.expert(number, self.shape))
        size = self.layout.nbytes(self.shape[1:])
        rows = slice(number * self.shape[1], (number + 1) * self.shape[1])
        return replace(
            self,
            shape=self.shape[1:],
            source=self.data[number * size : (number + 1) * size],
            scales=None if self.scales is None else self.scales[rows],
        )

    def _transposed(self) -> StoredTensor:
        if len(self.shape) != 2 or self.layout.block != 1 or self.row_order is not None or self.scales is not None:
            raise ValueError(f"has shape {self.shape} in {self.format}, which can't be transposed")
        elements = self.data.reshape(*self.shape, self.layout.block_bytes)
        return replace(self, shape=self.shape[::-1], source=elements.swapaxes(0, 1))

    def of_stack(self, *, transposed: bool) -> StoredTensor:
        """A stack of matrices [n, rows, columns], each transposed if asked for, as one [n * rows, columns].

        Those that are transposed become float32 whenever they are asked for. Raises ValueError.
        """
        if len(self.shape) != 3:
            raise ValueError(f"has shape {self.shape}, which is no stack of matrices")
        n, rows, columns = self.shape
        if not transposed:
            return replace(self, shape=(n * rows, columns))

        def make(*arrays: NDArray[Any]) -> Bytes:
            return np.ascontiguousarray(self.values().swapaxes(1, 2)).view(np.uint8).reshape(-1)

        shape = n * columns, rows
        return StoredTensor(self.name, "F32", shape, Rearranged(self.arrays, make), file=self.file)

    def _normalised(self) -> StoredTensor:
        """Its rows, each divided by its Euclidean length: float32, made whenever they are asked for."""
        if len(self.shape) != 2 or self.layout.block != 1:
            raise ValueError(f"has shape {self.shape} in {self.format}, whose rows can't be normalised")

        def make(*arrays: NDArray[Any]) -> Bytes:
            values = self.values()
            lengths = np.linalg.norm(values, axis=1, keepdims=True).astype(np.float32)
            rows: Floats = values / np.maximum(lengths, np.float32(1e-12))
            return rows.view(np.uint8).reshape(-1)

        return StoredTensor(self.name, "F32", self.shape, Rearranged(self.arrays, make), file=self.file)

    def _rows(self, blocks: int, block_rows: int, start: int, stop: int) -> StoredTensor:
        if not self.shape or blocks * block_rows != self.shape[0] or not 0 <= start < stop <= block_rows:
            raise ValueError(f"has shape {self.shape}, without {blocks} blocks of {block_rows} rows")
        rows = np.arange(self.shape[0], dtype=np.int32) if self.row_order is None else self.row_order
        chosen = np.ascontiguousarray(rows.reshape(blocks, block_rows)[:, start:stop]).reshape(-1)
        return replace(self, shape=(len(chosen), *self.shape[1:]), row_order=chosen)


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model's weights and its configuration, named and spelt as Hugging Face checkpoints do.

    `path` is the directory or the file that was opened, `config` what config.json says, or would say. A GGUF file has
    `metadata` too, under GGUF's own keys, and in `generation_config` its advice on sampling. Where there are no weights
    but only a configuration, `declared` makes of a graph's nodes the tensors that its weights would be, without bytes.
    """

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, Any] | None = None
    generation_config: dict[str, Any] = field(default_factory=dict)
    quantization: str | None = None  # the method, by the name that --quantization has for it
    declared: Callable[[Iterable[Node]], Mapping[str, StoredTensor]] | None = None
    files: frozenset[Path] = frozenset()  # of weights, of which some may have no more than parts of tensors
