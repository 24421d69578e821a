"""Quantized matrices on a device, and weights that become such while they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.executor.torch.forms import TABLES, Form

LARGEST_INT8, LARGEST_E4M3, LARGEST_UINT4 = 127, 448, 15
SEARCH_STARTS = 4  # of the search for 4 bits
SEARCH_CUT = 0.02  # the share of a group's range that each start leaves out at both ends, more than the one before


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix of `columns` columns: the arrays that `form.shapes` names, those that it lacks None.

    With a `column_order`, int64 [columns], its column i is multiplied with the column `column_order[i]` of an input.
    """

    form: Form
    columns: int
    codes: Tensor
    scales: Tensor
    minima: Tensor | None = None
    scale_steps: Tensor | None = None
    minimum_steps: Tensor | None = None
    column_order: Tensor | None = None

    @classmethod
    def empty(
        cls, form: Form, rows: int, columns: int, device: torch.device, column_order: Tensor | None = None
    ) -> Quantized:
        shapes = form.shapes(rows, columns)
        return cls(form, columns, column_order=column_order, **{
            name: torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            for name, (shape, dtype) in shapes.items()
        })  # fmt: skip

    @property
    def arrays(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        found = {name: getattr(self, name) for name in self.form.shapes(1, 1)}
        return {name: array for name, array in found.items() if array is not None}

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def table(self) -> Tensor | None:
        """float32 [16] of codes that stand for what a table has."""
        return _table(self.form.codes, self.codes.device) if self.form.codes in TABLES else None

    def rows(self, which: slice | Tensor) -> Quantized:
        """Some rows: views of a slice, copies of those with the numbers of a tensor."""
        arrays = {name: array[which] for name, array in self.arrays.items()}
        return Quantized(self.form, self.columns, column_order=self.column_order, **arrays)

    def copy_(self, arrays: Mapping[str, Tensor]) -> None:
        for name, array in self.arrays.items():
            array.copy_(arrays[name])


@cache
def _table(name: str, device: torch.device) -> Tensor:
    return torch.from_numpy(TABLES[name]).to(device)


Matrix = Tensor | Quantized


def quantize(values: Tensor, form: Form) -> dict[str, Tensor]:
    """The arrays of a matrix, float32 [rows, columns], in a form that weights are quantized to while they are loaded.

    Rows with a value that is not finite get a scale that is not, of 4 bits just those groups.
    """
    if form.codes == "unsigned":
        padded = F.pad(values, (0, -values.shape[1] % form.group), mode="replicate")
        return _search(padded.view(len(values), -1, form.group))
    largest = LARGEST_INT8 if form.codes == "signed" else LARGEST_E4M3
    scales = values.abs().amax(1, keepdim=True) / largest
    steps = values * torch.where(scales > 0, 1 / scales, 0.0)
    if form.codes == "signed":
        return {"codes": steps.nan_to_num().round().to(torch.int8), "scales": scales}
    return {"codes": steps.clamp(-largest, largest).to(torch.float8_e4m3fn).view(torch.uint8), "scales": scales}


def _search(x: Tensor) -> dict[str, Tensor]:
    """Groups [rows, groups, columns] in 4 bits, scale * code + minimum, of little squared error.

    The search begins with a group's range, and with ranges that leave out a little of it at both ends; least squares
    improves each. Scales and minima are tried as float16 holds them.
    """
    low, high = x.amin(2), x.amax(2)
    best = _Affine.measured(x, (high - low) / LARGEST_UINT4, low)
    for start in range(SEARCH_STARTS):
        cut = (high - low) * SEARCH_CUT * start
        guess = _Affine.measured(x, (high - low - 2 * cut) / LARGEST_UINT4, low + cut)
        once = guess.refined(x)
        best = best.better(guess).better(once).better(once.refined(x))
    low_half, high_half = best.codes(x).chunk(2, dim=2)
    packed = low_half | high_half << 4
    scales = torch.where((high - low).isfinite(), best.scale, torch.nan)
    return {"codes": packed.flatten(1), "scales": scales, "minima": best.minimum}


@dataclass(frozen=True, slots=True)
class _Affine:
    """A choice of scale and minimum for each group, [rows, groups], with the sum of its squared errors."""

    scale: Tensor
    minimum: Tensor
    error: Tensor

    @classmethod
    def measured(cls, x: Tensor, scale: Tensor, minimum: Tensor) -> _Affine:
        scale, minimum = scale.half().float(), minimum.half().float()
        unmeasured = cls(scale, minimum, scale)
        wrong = unmeasured._steps(x) * scale[:, :, None] + minimum[:, :, None] - x
        return cls(scale, minimum, wrong.square().sum(2))

    def _steps(self, x: Tensor) -> Tensor:
        factor = torch.where(self.scale > 0, 1 / self.scale, 0.0)
        return ((x - self.minimum[:, :, None]) * factor[:, :, None]).round().clamp(0, LARGEST_UINT4)

    def codes(self, x: Tensor) -> Tensor:
        return self._steps(x).nan_to_num().to(torch.uint8)

    def refined(self, x: Tensor) -> _Affine:
        """The scale and the minimum of least squared error for these codes."""
        q, n = self._steps(x), x.shape[2]
        sum_q, sum_x = q.sum(2), x.sum(2)
        spread = n * q.square().sum(2) - sum_q.square()
        scale = torch.where(spread > 0, (n * (q * x).sum(2) - sum_q * sum_x) / spread, self.scale)
        return _Affine.measured(x, scale, (sum_x - scale * sum_q) / n)

    def better(self, other: _Affine) -> _Affine:
        wins = other.error < self.error
        return _Affine(
            torch.where(wins, other.scale, self.scale),
            torch.where(wins, other.minimum, self.minimum),
            torch.where(wins, other.error, self.error),
        )
