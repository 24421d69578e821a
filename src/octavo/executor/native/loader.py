"""Packs the weights of a tape, and writes the tape into the C++ executor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from octavo import _native
from octavo.executor.native.tape import Buffer, Op, Packed, Tape
from octavo.graph.node import Weight
from octavo.weights.tensor import StoredTensor

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Loader:
    """`release(name)` is called when all matrices have been packed that are in the tensor of that name."""

    def __init__(
        self,
        native: _native.Executor,
        tape: Tape,
        tensors: Mapping[str, StoredTensor],
        dtype: str,
        release: Callable[[str], None],
    ):
        self.native, self.tape, self.tensors, self.dtype, self.release = native, tape, tensors, dtype, release
        self.arena = _native.Arena()
        self.packed: dict[Packed, _native.PackedMatrix] = {}
        self.unpacked = Counter(weight.name for matrix in dict.fromkeys(tape.matrices()) for weight in matrix.weights)
        self.numbers: list[int] = [native.buffer(*buffer.kind) for buffer in tape.buffers]

    def load(self) -> None:
        """In the order of the tape."""
        for op in self.tape.ops:
            self.native.add(
                op.name,
                [self._columns(buffer) for buffer in op.inputs],
                [self._columns(buffer) for buffer in op.outputs],
                {name: self._pack(matrix) for name, matrix in op.matrices.items()},
                {name: self._vector(op, name, vector) for name, vector in op.vectors.items()},
                dict(op.params),
            )
        if self.tape.output is not None:
            maxima = self.tape.maxima or self.tape.output  # of hidden states nothing is drawn
            self.native.set_logits(self.numbers[self.tape.output.number], self.numbers[maxima.number])

    def _columns(self, buffer: Buffer) -> tuple[int, int, int]:
        return self.numbers[buffer.number], buffer.first, buffer.columns

    def _pack(self, matrix: Packed) -> _native.PackedMatrix:
        if matrix not in self.packed:
            parts = [_as_matrix(self.tensors[weight.name].part(weight), matrix.layout) for weight in matrix.weights]
            order = parts[0].column_order  # that of all, see `layouts`
            layout, sources = matrix.layout or self.dtype, list(map(_source, parts))
            self.packed[matrix] = _native.pack(sources, matrix.arrangement, layout, self.arena, order)
            for weight in matrix.weights:
                self.unpacked[weight.name] -= 1
                if self.unpacked[weight.name] == 0:
                    self.release(weight.name)
        return self.packed[matrix]

    def _vector(self, op: Op, name: str, vector: Weight | tuple[Weight | None, ...]) -> Floats:
        if isinstance(vector, Weight):
            return self.tensors[vector.name].part(vector).values().astype(np.float32).reshape(-1)
        return self._biases(op.matrices[name.removesuffix("bias").rstrip("_") or "weight"], vector)

    def _biases(self, matrix: Packed, biases: tuple[Weight | None, ...]) -> Floats:
        """Of all packed rows, in their order; zeros where there is none."""
        parts = [
            np.zeros(weight.shape[0], np.float32) if bias is None else self.tensors[bias.name].part(bias).values()
            for weight, bias in zip(matrix.weights, biases, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        padded = [np.pad(part, (0, -len(part) % 16)) for part in parts]
        if matrix.arrangement == "stacked":
            return np.concatenate(padded)
        pairs = zip(padded[::2], padded[1::2], strict=True)
        return np.concatenate([np.stack([one.reshape(-1, 16) for one in pair], axis=1).reshape(-1) for pair in pairs])


def _source(tensor: StoredTensor) -> tuple[str, Any, int, int, Any, Any]:
    """A matrix as `_native.pack` takes it."""
    rows, columns = tensor.shape
    data = np.ascontiguousarray(tensor.data).reshape(-1)
    return tensor.format, data, rows, columns, tensor.row_order, tensor.scales


def _as_matrix(tensor: StoredTensor, layout: str | None) -> StoredTensor:
    """What can be packed: of plain numbers, columns in their own order.

    A convolution's weight [rows, columns, kernel] becomes [rows, kernel * columns]: a matrix for unfolded rows.
    """
    if len(tensor.shape) == 3:
        return _floats(tensor.name, tensor.values().transpose(0, 2, 1).reshape(tensor.shape[0], -1))
    return _floats(tensor.name, tensor.values()) if layout is None and tensor.column_order is not None else tensor


def _floats(name: str, values: Floats) -> StoredTensor:
    return StoredTensor(name, "F32", values.shape, np.ascontiguousarray(values).view(np.uint8).reshape(-1))
