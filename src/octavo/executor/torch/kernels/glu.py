"""Gated values, of inputs that may be parts of wider rows."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024


def gated(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    rows, columns = gate.shape
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    kernel: Any = multiply
    kernel[rows, triton.cdiv(columns, TILE)](gate, up, out, gate.stride(0), up.stride(0), columns, KIND=kind, TILE=TILE)
    return out


@triton.jit
def multiply(gate, up, out, gate_stride, up_stride, columns, KIND: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < columns
    a = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    if KIND == "silu":
        a = a / (1 + tl.exp(-a))
    elif KIND == "gelu":
        a = a * (1 + tl.erf(a * 0.7071067811865476)) / 2
    elif KIND == "gelu_tanh":
        a = a / (1 + tl.exp(-1.5957691216057308 * (a + 0.044715 * a * a * a)))
    elif KIND == "quick_gelu":
        a = a / (1 + tl.exp(-1.702 * a))
    elif KIND == "sigmoid":
        a = 1 / (1 + tl.exp(-a))
    elif KIND == "swigluoai":
        a = tl.where(a > 7, 7.0, a)
        a = a / (1 + tl.exp(-1.702 * a))
        b = tl.where(b > 7, 7.0, tl.where(b < -7, -7.0, b)) + 1
    elif KIND != "none":
        tl.static_assert(KIND == "relu" or KIND == "relu2")
        a = tl.maximum(a, 0.0)
        if KIND == "relu2":
            a = a * a
    tl.store(out + row * columns + column, (a * b).to(out.dtype.element_ty), mask=inside)
