"""Norms of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, ShapeError, StepShape, Weight, op


@dataclass(frozen=True, eq=False)
class Norm(Node):
    """What norms have in common: groups of `width` columns, heads say, are normalised each by itself.

    `weight` and `bias` have a value for each column of the row, or of a group; `offset` is added to the weight. Where
    there is none, it counts as 1, and a bias as 0.
    """

    x: Node
    weight: Weight | None
    eps: float
    width: int
    offset: float
    multiplies = False

    def __post_init__(self) -> None:
        if self.x.columns % self.width:
            raise ShapeError(f"{self.name()}: {self.x.columns} columns are no whole number of groups of {self.width}")
        for weight in self.weights:
            if weight.size not in (self.width, self.columns):
                raise ShapeError(f"{self.name()}: {weight.name} has {weight.size} values for {self.columns} columns")

    @property
    def columns(self) -> int:
        return self.x.columns

    def flops(self, step: StepShape) -> int:
        return 0

    def _scaled(self, run: ReferencePass, groups: Floats) -> Floats:
        weight = 1 if self.weight is None else run.read(self.weight).reshape(-1, self.width) + np.float32(self.offset)
        return np.asarray(groups * weight, np.float32)


@op
class RMSNorm(Norm):
    """x / sqrt(mean(x²) + eps) * (weight + offset) (Zhang and Sennrich 2019)."""

    @classmethod
    def of(
        cls,
        x: Node,
        name: str | None,
        eps: float,
        *,
        width: int | None = None,
        offset: float = 0.0,
        shape: tuple[int, ...] | None = None,
    ) -> Node:
        """`shape` is the weight's, where it is not (width,); without a `name` there is none."""
        width = width or x.columns
        weight = None if name is None else Weight(f"{name}.weight", shape or (width,))
        return cls(x, weight, eps, width, offset)

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        groups = x.reshape(len(x), -1, self.width)
        scale = np.sqrt(np.mean(np.square(groups), axis=-1, keepdims=True) + np.float32(self.eps))
        return self._scaled(run, groups / scale).reshape(x.shape)


@op
class LayerNorm(Norm):
    """(x - mean(x)) / sqrt(variance(x) + eps) * (weight + offset) + bias (Ba et al. 2016)."""

    bias: Weight | None

    @classmethod
    def of(
        cls,
        x: Node,
        name: str | None,
        eps: float,
        *,
        bias: bool = True,
        width: int | None = None,
        offset: float = 0.0,
        shape: tuple[int, ...] | None = None,
    ) -> Node:
        """`shape` is that of weight and bias, where it is not (width,); without a `name` there are none."""
        width = width or x.columns
        weights = [None if name is None else Weight(f"{name}.{part}", shape or (width,)) for part in ("weight", "bias")]
        return cls(x, weights[0], eps, width, offset, weights[1] if bias else None)

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        groups = x.reshape(len(x), -1, self.width)
        centred = groups - groups.mean(axis=-1, keepdims=True)
        normed = centred / np.sqrt(np.mean(np.square(centred), -1, keepdims=True) + self.eps)
        bias = 0 if self.bias is None else run.read(self.bias).reshape(-1, self.width)
        return np.asarray(self._scaled(run, normed) + bias, np.float32).reshape(x.shape)


@op
class Normalise(Node):
    """x / max(|x|, eps), with the Euclidean length of each group of `width` columns: of each head, or of the row."""

    x: Node
    width: int
    eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.x.columns % self.width:
            raise ShapeError(f"normalise: {self.x.columns} columns are no whole number of groups of {self.width}")

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        groups = x.reshape(len(x), -1, self.width)
        lengths = np.sqrt(np.sum(np.square(groups), -1, keepdims=True))
        return np.asarray(groups / np.maximum(lengths, np.float32(self.eps)), np.float32).reshape(x.shape)
