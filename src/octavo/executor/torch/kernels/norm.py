"""RMS norm, alone or of a sum that is kept: one program for each row."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    _launch(x, x, weight, x, out, eps, has_sum=False)
    return out


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    total = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    _launch(x, y, weight, total, out, eps, has_sum=True)
    return total, out


def _launch(x: Tensor, y: Tensor, weight: Tensor, total: Tensor, out: Tensor, eps: float, has_sum: bool) -> None:
    rows, columns = x.shape
    tile = triton.next_power_of_2(columns)
    warps = min(16, max(1, tile // 256))
    kernel: Any = normalise
    kernel[rows,](
        x, y, weight, total, out, eps, x.stride(0), y.stride(0), columns, HAS_SUM=has_sum, TILE=tile, num_warps=warps
    )  # fmt: skip


@triton.jit
def normalise(
    x, y, weight, total, out, eps, x_stride, y_stride, columns, HAS_SUM: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """A row of out: x / sqrt(mean(x²) + eps) * weight; with HAS_SUM of x + y, which goes to `total`."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    inside = column < columns
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_SUM:
        value += tl.load(y + row * y_stride + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + row * columns + column, value, mask=inside)
    scale = tl.rsqrt(tl.sum(value * value, 0) / columns + eps)
    normed = value * scale * tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + row * columns + column, normed.to(out.dtype.element_ty), mask=inside)
