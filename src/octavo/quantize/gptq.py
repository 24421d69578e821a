"""GPTQ: the error of each column is compensated by those after it (Frantar et al. 2022, arXiv 2210.17323).

Least is sought not of the weights' own error, but of the products' with the inputs X of a calibration text: what their
Hessian 2 X Xᵀ weighs. Columns are quantized in their order, in blocks, after each of which all that follow are updated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from octavo.quantize.rounding import Floats, Grid, Numbers, Quantized

DAMPING = 0.01  # of the diagonal's mean, added to the diagonal
BLOCK = 128  # columns between two updates of all that follow


class Hessian:
    """Of the inputs of linears: 2 X Xᵀ, averaged over tokens, [columns, columns]. Damped, so that it has an inverse."""

    def __init__(self, columns: int, inputs: Iterable[Floats]):
        """`inputs` are [tokens, columns] each."""
        self.matrix: NDArray[np.float64] = np.zeros((columns, columns))
        tokens = 0
        for x in inputs:
            self.matrix += x.T @ x
            tokens += len(x)
        self.matrix *= 2 / tokens
        self.matrix.flat[:: columns + 1] += DAMPING * (np.trace(self.matrix) / columns or 1)

    @property
    def importance(self) -> Floats:
        """What the squared error of each column counts: [columns, 1]."""
        return np.diag(self.matrix).astype(np.float32)[:, None]

    @cached_property
    def factor(self) -> Floats:
        """The upper Cholesky factor of the inverse."""
        return np.linalg.cholesky(np.linalg.inv(self.matrix)).T.astype(np.float32)


def compensate(
    numbers: Numbers, weight: Floats, group: int, hessian: Hessian, stored: Callable[[Floats], Floats]
) -> Quantized:
    """The weight [rows, columns] in groups of so many columns; see `rounding.to_nearest`.

    A group's grid is chosen when its first column is reached, for the values as they are compensated by then.
    """
    rest = np.ascontiguousarray(weight.T)
    columns = len(rest)
    importance, factor = hessian.importance, hessian.factor
    codes, grids = np.empty_like(rest), list[Grid]()
    for first in range(0, columns, BLOCK):
        block = slice(first, min(first + BLOCK, columns))
        errors = np.empty_like(rest[block])
        for i in range(block.start, block.stop):
            if i % group == 0:
                whole = slice(i, i + group)
                grids.append(numbers.fit(rest[whole], importance[whole], stored))
            codes[i] = numbers.nearest(rest[i], Grid(grids[-1].scale[0], grids[-1].zero[0]))
            value = (codes[i] - grids[-1].zero[0]) * grids[-1].scale[0]
            errors[i - first] = error = (rest[i] - value) / factor[i, i]
            rest[i : block.stop] -= factor[i, i : block.stop, None] * error
        rest[block.stop :] -= factor[block, block.stop :].T @ errors
    scales, zeros = (np.concatenate(parts) for parts in zip(*grids, strict=True))
    return Quantized(codes, scales, zeros)
