"""Numbers of few bits that stand for a matrix: w = scale * (code - zero), with a scale and a zero for each group.

Matrices lie transposed here, [columns, rows]: what is computed for each row at once lies side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SHRINKS = np.linspace(1.1, 0.8, 16, dtype=np.float32)  # of the ranges that are tried: outer values may be cut
_SPAN = 1 << 18  # values of a matrix that are searched at once: they stay in the processor's cache


class Grid(NamedTuple):
    """The scale and the zero of each group: float32 [..., 1, rows]."""

    scale: Floats
    zero: Floats


@dataclass(frozen=True)
class Numbers:
    """The codes of a format: integers of `bits` from -2^(bits-1) on, or, where `is_float`, OCP's 8-bit floats E4M3.

    Symmetric ones have a zero of 0, else it is a code too.
    """

    bits: int
    is_float: bool = False
    symmetric: bool = True

    @property
    def low(self) -> int:
        return -448 if self.is_float else -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return 448 if self.is_float else (1 << (self.bits - 1)) - 1

    def nearest(self, w: Floats, grid: Grid) -> Floats:
        """The code of each value."""
        codes = w / grid.scale + grid.zero
        return np.clip(_nearest_e4m3(codes) if self.is_float else np.rint(codes), self.low, self.high)

    def fit(self, w: Floats, importance: Floats | None, stored: Callable[[Floats], Floats]) -> Grid:
        """The grid of least squared error for groups w [..., columns, rows], searched among shrunken ranges.

        Errors count by the `importance` [columns, 1] of their columns. `stored` rounds scales to what a file has.
        """
        if self.symmetric:
            bottom, top = None, np.abs(w).max(-2, keepdims=True)
        else:
            bottom = np.minimum(w.min(-2, keepdims=True), 0)
            top = np.maximum(w.max(-2, keepdims=True), 0)
        if self.is_float:  # its steps are relative: a smaller range has no finer ones
            return self._grid(bottom, top, stored)
        best = self._grid(bottom, top, stored)
        least = self._error(w, best, importance)
        for shrink in SHRINKS[1:]:
            grid = self._grid(None if bottom is None else bottom * shrink, top * shrink, stored)
            error = self._error(w, grid, importance)
            better = error < least
            best = Grid(*(np.where(better, new, old) for new, old in zip(grid, best, strict=True)))
            least = np.minimum(error, least)
        return best

    def _grid(self, bottom: Floats | None, top: Floats, stored: Callable[[Floats], Floats]) -> Grid:
        """That whose codes reach from `bottom` to `top`, or from -top to top."""
        reach = self.high if bottom is None else self.high - self.low
        scale = stored((top if bottom is None else top - bottom) / np.float32(reach))
        scale = np.where(scale > 0, scale, np.float32(1))  # of nothing but zeros, or of less than can be stored
        if bottom is None:
            return Grid(scale, np.zeros_like(scale))
        return Grid(scale, np.clip(np.rint(self.low - bottom / scale), self.low, self.high))

    def _error(self, w: Floats, grid: Grid, importance: Floats | None) -> Floats:
        wrong = (self.nearest(w, grid) - grid.zero) * grid.scale - w
        wrong *= wrong
        if importance is not None:
            wrong *= importance
        return np.asarray(wrong.sum(-2, keepdims=True))


@dataclass(frozen=True)
class Quantized:
    """A matrix: codes [columns, rows], scales and zeros [groups, rows], as float32."""

    codes: Floats
    scales: Floats
    zeros: Floats

    def values(self) -> Floats:
        """What they stand for, [rows, columns]."""
        groups, rows = self.scales.shape
        codes = self.codes.reshape(groups, -1, rows)
        values = (codes - self.zeros[:, None]) * self.scales[:, None]
        return np.ascontiguousarray(values.reshape(-1, rows).T)


def to_nearest(
    numbers: Numbers,
    weight: Floats,
    group: int,
    stored: Callable[[Floats], Floats],
    map_parts: Callable[..., Any] = map,
) -> Quantized:
    """Each value of `weight` [rows, columns] as the nearest code. `map_parts` may compute parts of it side by side."""
    rows, columns = weight.shape

    def part(first: int) -> tuple[Floats, Grid]:
        w = np.ascontiguousarray(weight[first : first + step].T).reshape(columns // group, group, -1)
        grid = numbers.fit(w, None, stored)
        return numbers.nearest(w, grid).reshape(columns, -1), grid

    step = max(1, _SPAN // columns)
    codes, grids = zip(*map_parts(part, range(0, rows, step)), strict=True)
    scales, zeros = (np.concatenate(parts, axis=-1)[:, 0] for parts in zip(*grids, strict=True))
    return Quantized(np.concatenate(codes, axis=-1), scales, zeros)


def round_rows(numbers: Numbers, x: Floats) -> Floats:
    """Rows of activations as they are where they are quantized too, each with a scale of its own: float32."""
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(numbers.high)
    grid = Grid(np.where(scale > 0, scale, np.float32(1)), np.zeros_like(scale))
    return numbers.nearest(x, grid) * grid.scale


def _nearest_e4m3(x: Floats) -> Floats:
    """Rounded to 4 bits of significand, or to multiples of 2^-9; ties to even. Source: OCP 8-bit Floating Point."""
    _, exponent = np.frexp(x)
    step = np.ldexp(np.float32(1), np.maximum(exponent - 1, -6) - 3)
    return np.asarray(np.rint(x / step) * step, np.float32)
