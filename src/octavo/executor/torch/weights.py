"""From stored tensors to tensors on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.executor.torch.ops import Rotation
from octavo.graph.node import Weight
from octavo.graph.ops.rope import RopeTable
from octavo.weights.tensor import StoredTensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PLAIN = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
STAGED_BYTES = 64 << 20  # copied to the device at once


class Weights:
    """The weights of a graph on a device, each there once.

    `release(name)` is called when a matrix has been copied, so that its file's pages need not stay in memory.
    """

    def __init__(
        self,
        tensors: Mapping[str, StoredTensor],
        device: torch.device,
        dtype: torch.dtype,
        release: Callable[[str], None],
    ):
        self._tensors, self._release = tensors, release
        self.device, self.dtype = device, dtype
        self._made: dict[tuple[Weight, ...], Tensor] = {}
        self._biases: dict[tuple[Any, ...], Tensor | None] = {}
        self._rotations: dict[RopeTable, Rotation] = {}
        self._staging: Tensor | None = None

    def loaded(self) -> None:
        """Everything is on the device: lets go of what was needed on the way."""
        self._staging = None

    def get(self, weight: Weight) -> Tensor:
        """A matrix in the model's type, or a vector in float32."""
        return self._stack((weight,), self.dtype if len(weight.shape) > 1 else torch.float32)

    def stacked(self, nodes: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
        """The matrix of linears one below the other, in the model's type, and their biases; None if none has one."""
        matrix = self._stack(tuple(node.weight for node in nodes), self.dtype)
        if nodes not in self._biases:
            biases = [
                torch.zeros(node.columns, device=self.device) if node.bias is None else self.get(node.bias)
                for node in nodes
            ]
            has_any = any(node.bias is not None for node in nodes)
            self._biases[nodes] = torch.cat(biases).to(self.dtype) if has_any else None
        return matrix, self._biases[nodes]

    def _stack(self, weights: tuple[Weight, ...], dtype: torch.dtype) -> Tensor:
        if weights not in self._made:
            rows = [weight.shape[0] for weight in weights]
            whole = torch.empty(sum(rows), *weights[0].shape[1:], dtype=dtype, device=self.device)
            for weight, part in zip(weights, torch.split(whole, rows), strict=True):
                self._copy(self._tensors[weight.name].part(weight), part)
                self._release(weight.name)
            self._made[weights] = whole
        return self._made[weights]

    def rotation(self, table: RopeTable, positions: int) -> Rotation:
        """cos and sin of `table` for that many positions."""
        if table not in self._rotations:
            frequencies = torch.tensor(table.inverse_frequencies, dtype=torch.float32, device=self.device)
            angles = torch.arange(positions, dtype=torch.float32, device=self.device)[:, None] * frequencies
            scale = table.scale
            self._rotations[table] = Rotation(angles.cos() * scale, angles.sin() * scale, table.interleaved)
        return self._rotations[table]

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
