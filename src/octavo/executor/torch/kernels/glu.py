"""silu(gate) * up, of inputs that may be parts of wider rows."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    rows, columns = gate.shape
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    kernel: Any = multiply
    kernel[rows, triton.cdiv(columns, TILE)](gate, up, out, gate.stride(0), up.stride(0), columns, TILE=TILE)
    return out


@triton.jit
def multiply(gate, up, out, gate_stride, up_stride, columns, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < columns
    a = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    product = a / (1 + tl.exp(-a)) * b
    tl.store(out + row * columns + column, product.to(out.dtype.element_ty), mask=inside)
