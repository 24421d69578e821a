"""What is computed of a text's rows behind the graph, in numpy and float32: products, norms, functions of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]


def _erf(x: Floats) -> Floats:
    """To 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.copysign(1 - series * np.exp(-np.square(x)), x), np.float32)


def _softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)


def _gelu_tanh(x: Floats) -> Floats:
    return np.asarray(x * (1 + np.tanh(np.float32(0.7978845608) * (x + 0.044715 * x**3))) / 2, np.float32)


# By the names that configurations have for them, in small letters; softmax is over a row.
ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: np.asarray(x * (1 + _erf(x * np.float32(0.5**0.5))) / 2, np.float32),
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": lambda x: _sigmoid(x),
    "softmax": _softmax,
}


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)


@dataclass(frozen=True, slots=True)
class Dense:
    """activation(x · weightᵀ + bias); `weight` is [columns, x.columns]."""

    weight: Floats
    bias: Floats | None = None
    activation: str = "identity"  # one of ACTIVATIONS

    @property
    def columns(self) -> int:
        return len(self.weight)

    @property
    def takes(self) -> int:
        """Columns of its input."""
        return int(self.weight.shape[1])

    def __call__(self, x: Floats) -> Floats:
        product = x @ self.weight.T
        return ACTIVATIONS[self.activation](product if self.bias is None else product + self.bias)


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm (Ba et al. 2016); `weight` and `bias` are [columns]."""

    weight: Floats
    bias: Floats | None = None
    eps: float = 1e-5

    @property
    def columns(self) -> int:
        return len(self.weight)

    takes = columns

    def __call__(self, x: Floats) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float32)
        variance = np.square(centred).mean(axis=-1, keepdims=True, dtype=np.float32)
        normed = centred / np.sqrt(variance + np.float32(self.eps)) * self.weight
        return np.asarray(normed if self.bias is None else normed + self.bias, np.float32)


Stage = Dense | Norm
