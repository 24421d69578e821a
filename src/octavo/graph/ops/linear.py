"""Products with matrices."""

from __future__ import annotations

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, ShapeError, StepShape, Weight, op


@op
class Linear(Node):
    """x · weightᵀ + bias, with `weight` [columns, x.columns]."""

    x: Node
    weight: Weight
    bias: Weight | None = None

    @classmethod
    def of(cls, x: Node, name: str, columns: int, bias: bool = False) -> Node:
        weight = Weight(f"{name}.weight", (columns, x.columns))
        return cls(x, weight, Weight(f"{name}.bias", (columns,)) if bias else None)

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        product = x @ run.read(self.weight).T
        return product if self.bias is None else product + run.read(self.bias)


@op
class Logits(Node):
    """scale * (x · weightᵀ + bias) for those tokens whose next token is asked for; `weight` is [vocabulary, x.columns].

    With a `softcap` they become softcap * tanh(x / softcap), see `Softcap`.
    """

    x: Node
    weight: Weight
    bias: Weight | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(
        cls,
        x: Node,
        name: str,
        vocab_size: int,
        bias: bool = False,
        scale: float = 1.0,
        softcap: float | None = None,
    ) -> Node:
        weight = Weight(f"{name}.weight", (vocab_size, x.columns))
        return cls(x, weight, Weight(f"{name}.bias", (vocab_size,)) if bias else None, scale, softcap)

    def flops(self, step: StepShape) -> int:
        return 2 * step.logit_rows * self.weight.size

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        product = x @ run.read(self.weight).T
        logits = np.float32(self.scale) * (product if self.bias is None else product + run.read(self.bias))
        return logits if self.softcap is None else np.asarray(self.softcap * np.tanh(logits / self.softcap))


@op
class Conv1d(Node):
    """A convolution over the rows of one source, `weight` [columns, x.columns, kernel], with an odd kernel.

    Row t is centred on row t * stride of x; rows before the first and after the last are zeros.
    """

    x: Node
    weight: Weight
    bias: Weight
    stride: int

    @classmethod
    def of(cls, x: Node, name: str, columns: int, kernel: int, stride: int = 1) -> Node:
        weight = Weight(f"{name}.weight", (columns, x.columns, kernel))
        return cls(x, weight, Weight(f"{name}.bias", (columns,)), stride)

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0 or self.x.rows_per_token % self.stride:
            rows = self.x.rows_per_token
            raise ShapeError(f"conv1d: kernel {self.kernel}, stride {self.stride} over {rows} rows per token")

    @property
    def kernel(self) -> int:
        return self.weight.shape[2]

    @property
    def rows_per_token(self) -> int:
        return self.x.rows_per_token // self.stride

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        weight, around = run.read(self.weight), self.kernel // 2
        padded = np.pad(x, ((around, around), (0, 0)))
        rows = [padded[row : row + self.kernel] for row in range(0, len(x), self.stride)]
        return np.stack([np.einsum("ki,oik->o", row, weight) for row in rows]) + run.read(self.bias)
