"""Functions of single values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, ShapeError, Weight, op


@op
class Add(Node):
    """x + y."""

    x: Node
    y: Node
    keeps_float32 = True

    def reference(self, run: ReferencePass, x: Floats, y: Floats) -> Floats:
        return x + y


def _erf(x: Floats) -> Floats:
    return np.asarray([math.erf(v) for v in x.ravel()]).reshape(x.shape)


# Functions of single values between two matrices, by the names that executors have for them.
ACTIVATIONS: dict[str, Callable[[Floats], np.ndarray]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),  # Elfwing et al. 2017
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,  # x * Φ(x), Hendrycks and Gimpel 2016
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,  # the same, nearly
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),  # likewise
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.square(np.maximum(x, 0)),  # So et al. 2021
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def _swigluoai(gate: Floats, up: Floats) -> Floats:
    """With limits, and one more than up (OpenAI 2025)."""
    return ACTIVATIONS["quick_gelu"](np.minimum(gate, 7)) * (np.clip(up, -7, 7) + 1)


# What is made of two values: an activation of the one times the other, or one of these (Shazeer 2020).
GLUS: dict[str, Callable[[Floats, Floats], np.ndarray]] = {
    **{kind: lambda gate, up, f=f: f(gate) * up for kind, f in ACTIVATIONS.items()},  # type: ignore[misc]
    "none": lambda gate, up: gate * up,
    "swigluoai": _swigluoai,
}


def check_kind(op: str, kind: str, known: Iterable[str] = ACTIVATIONS) -> None:
    if kind not in known:
        raise ValueError(f"{op}: {kind!r} is no activation; there are {', '.join(known)}")


@op
class Activation(Node):
    """One of `ACTIVATIONS`, by its name."""

    x: Node
    kind: str

    def __post_init__(self) -> None:
        check_kind("activation", self.kind)

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return np.asarray(ACTIVATIONS[self.kind](x), np.float32)


@op
class Glu(Node):
    """One of `GLUS` of gate and up. A gate of one column, or of one for each head of up, is that of all its columns."""

    gate: Node
    up: Node
    kind: str = "silu"

    def __post_init__(self) -> None:
        if self.up.columns % self.gate.columns:
            raise ShapeError(f"glu: {self.gate.columns} gates for {self.up.columns} columns")
        check_kind("glu", self.kind, GLUS)

    @property
    def columns(self) -> int:
        return self.up.columns

    def reference(self, run: ReferencePass, gate: Floats, up: Floats) -> Floats:
        gate = np.repeat(gate, self.up.columns // self.gate.columns, axis=-1)
        return np.asarray(GLUS[self.kind](gate, up), np.float32)


@op
class Xielu(Node):
    """beta x + softplus(alpha_p) x² above 0; beta x + (beta + softplus(alpha_n)) (e^min(x, eps) - 1 - x) elsewhere.

    The four are stored with the model, one value each (Huang and Schlag 2024).
    """

    x: Node
    alpha_p: Weight
    alpha_n: Weight
    beta: Weight
    eps: Weight

    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"alpha_p": (1,), "alpha_n": (1,), "beta": (), "eps": ()}

    @classmethod
    def of(cls, x: Node, name: str) -> Node:
        return cls(x, *(Weight(f"{name}.{part}", shape) for part, shape in cls.shapes.items()))

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        alpha_p, alpha_n, beta, eps = (run.read(weight).reshape(()) for weight in self.weights)
        below = (beta + np.logaddexp(0, alpha_n)) * (np.expm1(np.minimum(x, eps)) - x)
        return np.asarray(beta * x + np.where(x > 0, np.logaddexp(0, alpha_p) * np.square(x), below), np.float32)


@op
class Scale(Node):
    """factor * x."""

    x: Node
    factor: float
    keeps_float32 = True

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return np.asarray(np.float32(self.factor) * x)


@op
class ScaleBy(Node):
    """weight * x, with a weight for each column, or one for all."""

    x: Node
    weight: Weight
    keeps_float32 = True

    @classmethod
    def of(cls, x: Node, name: str, columns: int = 1) -> Node:
        """`name` is the weight's in full."""
        return cls(x, Weight(name, (columns,)))

    def __post_init__(self) -> None:
        if self.weight.shape not in ((1,), (self.x.columns,)):
            raise ShapeError(f"scale_by: a weight {self.weight.shape} for {self.x.columns} columns")

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return run.read(self.weight) * x


@op
class Clip(Node):
    """x, but -limit and limit where it is beyond."""

    x: Node
    limit: float

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return np.clip(x, -self.limit, self.limit)


@op
class Softcap(Node):
    """cap * tanh(x / cap): nearly x where that is small, and never beyond cap (Gemma Team 2024)."""

    x: Node
    cap: float

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return np.asarray(self.cap * np.tanh(x / self.cap), np.float32)
