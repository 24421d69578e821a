"""Columns that are put together, and taken apart."""

from __future__ import annotations

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, ShapeError, op


@op
class Join(Node):
    """Heads of x and y side by side: `x_width` columns of a head of x, then `y_width` of the same head of y.

    One of the two may have a single head, which all heads of the other share (DeepSeek-AI 2024).
    """

    x: Node
    y: Node
    x_width: int
    y_width: int

    def __post_init__(self) -> None:
        if self.x.columns % self.x_width or self.y.columns % self.y_width or len(self._heads - {1}) > 1:
            has = f"{self.x.columns} and {self.y.columns} columns"
            raise ShapeError(f"join: {has} are no heads of {self.x_width} and {self.y_width}, as many or one")

    @property
    def _heads(self) -> set[int]:
        return {self.x.columns // self.x_width, self.y.columns // self.y_width}

    @property
    def columns(self) -> int:
        return max(self._heads) * (self.x_width + self.y_width)

    def reference(self, run: ReferencePass, x: Floats, y: Floats) -> Floats:
        parts = [x.reshape(len(x), -1, self.x_width), y.reshape(len(y), -1, self.y_width)]
        parts = [np.broadcast_to(part, (len(x), max(self._heads), part.shape[2])) for part in parts]
        return np.concatenate(parts, axis=2).reshape(len(x), -1)


@op
class Columns(Node):
    """Columns [first, first + count) of x."""

    x: Node
    first: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.first + self.count <= self.x.columns:
            raise ShapeError(f"columns: {self.first} to {self.first + self.count} of {self.x.columns}")

    @property
    def columns(self) -> int:
        return self.count

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return x[:, self.first : self.first + self.count]
