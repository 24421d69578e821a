"""Rotary positions, and rows that grow with their position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, ShapeError, op


@dataclass(frozen=True, slots=True)
class RopeTable:
    """Rotary position embedding (Su et al. 2021): pair i is rotated by position * inverse_frequencies[i] radians.

    Pairs are columns (i, i + half) of a head, or (2i, 2i + 1) if `interleaved`; columns past the last pair stay as they
    are. cos and sin are multiplied by `scale` (YaRN, Peng et al. 2023).
    """

    inverse_frequencies: tuple[float, ...]
    scale: float = 1.0
    interleaved: bool = False


@op
class Rope(Node):
    """Every head of x, `head_dim` columns wide, rotated by its token's position."""

    x: Node
    head_dim: int
    table: RopeTable

    def __post_init__(self) -> None:
        if self.x.columns % self.head_dim:
            raise ShapeError(f"rope: {self.x.columns} columns are no whole number of heads of {self.head_dim}")
        if 2 * (pairs := len(self.table.inverse_frequencies)) > self.head_dim:
            raise ShapeError(f"rope: {pairs} pairs do not fit a head of {self.head_dim}")

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        table, half = self.table, len(self.table.inverse_frequencies)
        angles = np.outer(np.arange(len(x), dtype=np.float32), np.array(table.inverse_frequencies, np.float32))
        cos, sin = (table.scale * f(angles)[:, None, :] for f in (np.cos, np.sin))
        heads = x.reshape(len(x), -1, self.head_dim)
        if table.interleaved:
            first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
        else:
            first, second = slice(0, half), slice(half, 2 * half)
        a, b = heads[..., first], heads[..., second]
        rotated = heads.copy()
        rotated[..., first], rotated[..., second] = a * cos - b * sin, b * cos + a * sin
        return rotated.reshape(x.shape)


@op
class PositionScale(Node):
    """Rows of x times 1 + beta * ln(1 + floor((position + offset) / length)): queries of long contexts (Llama 4)."""

    x: Node
    beta: float
    length: int
    offset: int = 0

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        periods = np.floor((np.arange(len(x), dtype=np.float32) + self.offset) / np.float32(self.length))
        return np.asarray((1 + self.beta * np.log1p(periods))[:, None] * x, np.float32)
