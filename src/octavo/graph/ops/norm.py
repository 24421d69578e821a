"""Norms of rows."""

from __future__ import annotations

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, ShapeError, Weight, op


@op
class RMSNorm(Node):
    """x / sqrt(mean(x²) + eps) * weight (Zhang and Sennrich 2019)."""

    x: Node
    weight: Weight
    eps: float

    @classmethod
    def of(cls, x: Node, name: str, eps: float) -> Node:
        return cls(x, Weight(f"{name}.weight", (x.columns,)), eps)

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        scale = np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(self.eps))
        return np.asarray(x / scale * run.read(self.weight), np.float32)


@op
class LayerNorm(Node):
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias (Ba et al. 2016)."""

    x: Node
    weight: Weight
    bias: Weight
    eps: float

    @classmethod
    def of(cls, x: Node, name: str, eps: float) -> Node:
        weight, bias = (Weight(f"{name}.{part}", (x.columns,)) for part in ("weight", "bias"))
        return cls(x, weight, bias, eps)

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        normed = centred / np.sqrt(np.mean(np.square(centred), -1, keepdims=True) + self.eps)
        return np.asarray(normed * run.read(self.weight) + run.read(self.bias))


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
