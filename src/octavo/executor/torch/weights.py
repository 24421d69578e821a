"""From stored tensors to tensors on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.executor.torch.forms import Form, pieces, rearrange
from octavo.executor.torch.ops import Rotation
from octavo.executor.torch.quantized import Matrix, Quantized, quantize
from octavo.graph.node import Weight
from octavo.graph.ops.experts import Experts
from octavo.graph.ops.rope import RopeTable
from octavo.weights.tensor import StoredTensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PLAIN = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
STAGED_BYTES = 64 << 20  # copied to the device at once
PIECE = 4 << 20  # values of a quantized matrix that are prepared at once


@dataclass(frozen=True, slots=True)
class Stacked:
    """Matrices one below the other, those of one form as one, and the biases of their rows; None if none has one."""

    matrices: tuple[Matrix, ...]
    bias: Tensor | None


class Weights:
    """The weights of a graph on a device, each there once; those that `forms` names are quantized.

    `release(name)` is called when a matrix has been copied, so that its file's pages need not stay in memory.
    """

    def __init__(
        self,
        tensors: Mapping[str, StoredTensor],
        device: torch.device,
        dtype: torch.dtype,
        release: Callable[[str], None],
        forms: Mapping[str, Form],
    ):
        self._tensors, self._release, self._forms = tensors, release, forms
        self.device, self.dtype = device, dtype
        self._made: dict[tuple[Weight, ...], Matrix] = {}
        self._stacked: dict[tuple[Any, ...], Stacked] = {}
        self._experts: dict[Experts, dict[str, Matrix]] = {}
        self._in_float32: dict[Weight, Tensor] = {}
        self._scalars: dict[Weight, float] = {}
        self._of_norms: dict[Any, Tensor] = {}
        self._rotations: dict[RopeTable, Rotation] = {}
        self._constants: dict[tuple[float, ...], Tensor] = {}
        self._staging: Tensor | None = None

    def loaded(self) -> None:
        """Everything is on the device: lets go of what was needed on the way."""
        self._staging = None

    def get(self, weight: Weight) -> Tensor:
        """A matrix in the model's type, or a vector in float32."""
        found = self.matrix(weight)
        assert isinstance(found, Tensor), f"{weight.name} is quantized"
        return found

    def matrix(self, weight: Weight) -> Matrix:
        """The same, or a quantized matrix."""
        return self.stack((weight,))

    def in_float32(self, weight: Weight) -> Tensor:
        """A matrix in float32, whatever the model's type is."""
        if weight not in self._in_float32:
            whole = torch.empty(weight.shape, device=self.device)
            self._load(self._tensors[weight.name].part(weight), whole, 0)
            self._release(weight.name)
            self._in_float32[weight] = whole
        return self._in_float32[weight]

    def stacked(self, nodes: tuple[Any, ...]) -> Stacked:
        """What linears of one input multiply with, biases in the model's type."""
        if nodes not in self._stacked:
            weights = [node.weight for node in nodes]
            alike = groupby(weights, key=lambda weight: (self._forms.get(weight.name), self._order(weight)))
            matrices = tuple(self.stack(tuple(group)) for _, group in alike)
            biases = [
                torch.zeros(node.columns, device=self.device) if node.bias is None else self.get(node.bias)
                for node in nodes
            ]
            has_any = any(node.bias is not None for node in nodes)
            self._stacked[nodes] = Stacked(matrices, torch.cat(biases).to(self.dtype) if has_any else None)
        return self._stacked[nodes]

    def experts(self, node: Experts) -> dict[str, Matrix]:
        """The stacks of a mixture that there are, by the names of its fields."""
        if node not in self._experts:
            names = (f"{name}{bias}" for name in ("gate", "up", "down") for bias in ("", "_bias"))
            self._experts[node] = {name: self.stack(stack) for name in names if (stack := getattr(node, name))}
        return self._experts[node]

    def scalar(self, weight: Weight) -> float:
        """A weight of one value."""
        if weight not in self._scalars:
            self._scalars[weight] = float(self._tensors[weight.name].part(weight).values().reshape(-1)[0])
        return self._scalars[weight]

    def of_norm(self, node: Any) -> Tensor:
        """What a norm multiplies with, its offset included: float32, for a group of columns, or for all."""
        if node not in self._of_norms:
            weight = torch.ones(node.width, device=self.device)
            if node.weight is not None:
                weight = self.get(node.weight).flatten().float() + node.offset
            self._of_norms[node] = weight
        return self._of_norms[node]

    def quantized(self) -> Iterator[Quantized]:
        """All quantized matrices that are there."""
        return (matrix for matrix in self._made.values() if isinstance(matrix, Quantized))

    def stack(self, weights: tuple[Weight, ...]) -> Matrix:
        """Matrices of one form, or vectors, one below the other."""
        if weights not in self._made:
            whole = self._empty(weights)
            begin = 0
            for name, parts in groupby(weights, key=lambda weight: weight.name):
                for weight in parts:
                    self._load(self._tensors[name].part(weight), whole, begin)
                    begin += weight.shape[0]
                self._release(name)
            self._made[weights] = whole
        return self._made[weights]

    def _order(self, weight: Weight) -> list[int] | None:
        """That of the stored columns."""
        order = self._tensors[weight.name].column_order
        return None if order is None else order.tolist()

    def _empty(self, weights: tuple[Weight, ...]) -> Matrix:
        rows, shape, form = (
            sum(weight.shape[0] for weight in weights),
            weights[0].shape,
            self._forms.get(weights[0].name),
        )
        if form is not None:
            order = self._order(weights[0])
            column_order = None if order is None else torch.tensor(order, device=self.device)
            return Quantized.empty(form, rows, shape[1], self.device, column_order)
        return torch.empty(rows, *shape[1:], dtype=self.dtype if len(shape) > 1 else torch.float32, device=self.device)

    def constants(self, values: tuple[float, ...]) -> Tensor:
        """Numbers that a declaration says: float32."""
        if values not in self._constants:
            self._constants[values] = torch.tensor(values, dtype=torch.float32, device=self.device)
        return self._constants[values]

    def rotation(self, table: RopeTable, positions: int) -> Rotation:
        """cos and sin of `table` for that many positions."""
        if table not in self._rotations:
            frequencies = torch.tensor(table.inverse_frequencies, dtype=torch.float32, device=self.device)
            angles = torch.arange(positions, dtype=torch.float32, device=self.device)[:, None] * frequencies
            scale = table.scale
            self._rotations[table] = Rotation(angles.cos() * scale, angles.sin() * scale, table.interleaved)
        return self._rotations[table]

    def _load(self, stored: StoredTensor, whole: Matrix, begin: int) -> None:
        """Copies a tensor to the rows of `whole` from `begin` on."""
        if isinstance(whole, Tensor):
            self._copy(stored, whole[begin : begin + stored.shape[0]])
            return
        for rows, piece in pieces(stored, PIECE):
            if stored.format in PLAIN:
                values = torch.from_numpy(piece.data).to(self.device).view(PLAIN[stored.format]).view(piece.shape)
                arrays = quantize(values.float(), whole.form)
            else:
                arrays = {name: torch.from_numpy(array) for name, array in rearrange(piece, whole.form).items()}
            whole.rows(slice(begin + rows.start, begin + rows.stop)).copy_(arrays)

    def _copy(self, stored: StoredTensor, out: Tensor) -> None:
        """Copies a tensor to `out`, through a pinned buffer where that is faster."""
        if stored.format not in PLAIN or stored.row_order is not None:
            out.copy_(torch.from_numpy(stored.values()))
            return
        flat, dtype = out.view(-1), PLAIN[stored.format]
        data = stored.data.reshape(-1)  # a copy, if it is transposed
        if self._staging is None:
            self._staging = torch.empty(STAGED_BYTES, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        for begin in range(0, data.size, STAGED_BYTES):
            size = min(STAGED_BYTES, data.size - begin)
            np.copyto(self._staging[:size].numpy(), data[begin : begin + size])
            piece = self._staging[:size].to(self.device).view(dtype)
            first = begin // dtype.itemsize
            flat[first : first + len(piece)].copy_(piece)
