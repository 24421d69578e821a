"""GPTQ: the error of each column is compensated by those after it (Frantar et al. 2022, arXiv 2210.17323).

Least is sought not of the weights' own error, but of the products' with the inputs X of a calibration text: what their
Hessian 2 X Xᵀ weighs. Columns are quantized in the order of their importance, whatever their group, in blocks, after
each of which all that follow are updated.
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
    """Of the inputs of linears: 2 X Xᵀ, averaged over tokens, [columns, columns], damped, so that it has an inverse.

    Of few tokens, correlations are found that other texts do not have. So what is beside the diagonal is shrunk, by the
    more the fewer tokens there are for each column (after Ledoit and Wolf 2004, A well-conditioned estimator).
    """

    def __init__(self, columns: int, inputs: Iterable[Floats]):
        """`inputs` are [tokens, columns] each."""
        self.matrix: NDArray[np.float64] = np.zeros((columns, columns))
        tokens = 0
        for x in inputs:
            self.matrix += x.T @ x
            tokens += len(x)
        diagonal = np.diag(self.matrix) * (2 / tokens)
        self.matrix *= 2 / (tokens + columns)
        self.matrix.flat[:: columns + 1] = diagonal + DAMPING * (diagonal.mean() or 1)

    @property
    def importance(self) -> Floats:
        """What the squared error of each column counts: [columns, 1]."""
        return np.diag(self.matrix).astype(np.float32)[:, None]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The columns, the most important ones first: most others are left to make up for their errors."""
        return np.argsort(-np.diag(self.matrix), kind="stable")

    @cached_property
    def factor(self) -> Floats:
        """The upper Cholesky factor of the inverse, of the columns in their order."""
        ordered = self.matrix[np.ix_(self.order, self.order)]
        return np.linalg.cholesky(np.linalg.inv(ordered)).T.astype(np.float32)


def compensate(
    numbers: Numbers, weight: Floats, group: int, hessian: Hessian, stored: Callable[[Floats], Floats]
) -> Quantized:
    """The weight [rows, columns] in groups of so many columns, whose grids are chosen first.

    See `rounding.to_nearest` for `stored`.
    """
    columns = weight.shape[1]
    groups = np.ascontiguousarray(weight.T).reshape(columns // group, group, -1)
    grid = numbers.fit(groups, hessian.importance.reshape(-1, group, 1), stored)
    scales, zeros = grid.scale[:, 0], grid.zero[:, 0]
    order, factor = hessian.order, hessian.factor
    rest, codes = weight.T[order], np.empty((columns, len(weight)), np.float32)
    for first in range(0, columns, BLOCK):
        block = slice(first, min(first + BLOCK, columns))
        errors = np.empty_like(rest[block])
        for i in range(block.start, block.stop):
            its = Grid(scales[order[i] // group], zeros[order[i] // group])
            code = codes[order[i]] = numbers.nearest(rest[i], its)
            errors[i - first] = error = (rest[i] - (code - its.zero) * its.scale) / factor[i, i]
            rest[i : block.stop] -= factor[i, i : block.stop, None] * error
        rest[block.stop :] -= factor[block, block.stop :].T @ errors
    return Quantized(codes, scales, zeros)
