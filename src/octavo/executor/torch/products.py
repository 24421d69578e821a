"""Products with matrices, plain or quantized, by the number of rows that there are to multiply."""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.executor.torch.quantized import Matrix, Quantized, quantize
from octavo.executor.torch.weights import Stacked

FEW_ROWS = 64  # for which weights are taken apart as they are multiplied; of more, once for all rows
FEW_ROWS_OF_FLOAT32 = 16  # which takes more room, and no instructions for matrices
KINDS_OF_ROWS = (1, FEW_ROWS // 2, FEW_ROWS, FEW_ROWS + 1)  # one of each number for which there is a kernel of its own
EXPERT_ROWS = (16, 32, 64)  # of the tiles in which the rows of an expert are multiplied
FP8_CAPABILITY = (8, 9)  # of chips that multiply in 8 bits


class Products:
    """`kernels` has the functions of `ops`. Matrices are unpacked to `scratch`, uint8, some of their rows at a time."""

    def __init__(self, kernels: ModuleType, scratch: Tensor):
        self.kernels, self.scratch = kernels, scratch
        is_cuda = scratch.is_cuda
        self.has_fp8 = is_cuda and torch.cuda.get_device_capability(scratch.device) >= FP8_CAPABILITY

    def linear(self, x: Tensor, stacked: Stacked) -> Tensor:
        """x · matrixᵀ + bias, with all matrices as one."""
        if len(stacked.matrices) == 1 and isinstance(matrix := stacked.matrices[0], Tensor):
            return F.linear(x, matrix, stacked.bias)
        sizes = [len(matrix) for matrix in stacked.matrices]
        out = torch.empty(len(x), sum(sizes), dtype=x.dtype, device=x.device)
        biases = [None] * len(sizes) if stacked.bias is None else torch.split(stacked.bias, sizes)
        for matrix, bias, part in zip(stacked.matrices, biases, torch.split(out, sizes, dim=1), strict=True):
            self._multiply(x, matrix, bias, part)
        return out

    def logits(self, x: Tensor, matrix: Matrix) -> Tensor:
        """x · matrixᵀ in float32; in 16 bits, likely tokens would often get the same logit."""
        if isinstance(matrix, Tensor):
            return _in_float32(x, matrix)
        out = torch.empty(len(x), len(matrix), dtype=torch.float32, device=x.device)
        self._multiply(x, matrix, None, out)
        return out

    def rows(self, matrix: Quantized, which: Tensor) -> Tensor:
        """Those rows of a matrix, float32."""
        out = torch.empty(len(which), matrix.columns, device=which.device)
        self.kernels.dequantize(matrix.rows(which), out)
        order = matrix.column_order
        return out if order is None else torch.empty_like(out).index_copy_(1, order, out)

    def _multiply(self, x: Tensor, matrix: Matrix, bias: Tensor | None, out: Tensor) -> None:
        """Writes x · matrixᵀ + bias to `out`, which may be a part of wider rows."""
        if isinstance(matrix, Tensor):
            return _multiply_plain(x, matrix, bias, out)
        if matrix.column_order is not None:
            x = x.index_select(1, matrix.column_order)
        if len(x) <= (FEW_ROWS_OF_FLOAT32 if x.dtype == torch.float32 else FEW_ROWS):
            self.kernels.multiply_quantized(x.contiguous(), matrix, bias, out)
        elif self.has_fp8 and fits_fp8(matrix) and out.dtype == torch.bfloat16:
            multiply_fp8(x, matrix, bias, out)
        else:
            self._unpack_and_multiply(x, matrix, bias, out)

    def _unpack_and_multiply(self, x: Tensor, matrix: Quantized, bias: Tensor | None, out: Tensor) -> None:
        scratch = self.scratch.view(x.dtype)
        step = len(scratch) // matrix.columns
        for begin in range(0, len(matrix), step):
            rows = slice(begin, min(begin + step, len(matrix)))
            values = scratch[: (rows.stop - begin) * matrix.columns].view(-1, matrix.columns)
            self.kernels.dequantize(matrix.rows(rows), values)
            _multiply_plain(x, values, None if bias is None else bias[rows], out[:, rows])


def _multiply_plain(x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if out.dtype != x.dtype:
        out.copy_(_in_float32(x, matrix))
    elif bias is None:
        torch.mm(x, matrix.t(), out=out)
    else:
        torch.addmm(bias, x, matrix.t(), out=out)


def _in_float32(x: Tensor, matrix: Tensor) -> Tensor:
    if x.dtype == torch.float32:
        return x @ matrix.t()
    if x.is_cuda:
        return torch.mm(x, matrix.t(), out_dtype=torch.float32)
    return x.float() @ matrix.float().t()


def fits_fp8(matrix: Quantized) -> bool:
    """Whether `torch._scaled_mm` takes it: floats of 8 bits with a scale for each row, and sizes of its tiles."""
    is_fp8 = matrix.form.codes == "e4m3" and matrix.form.group == 0
    return is_fp8 and matrix.columns % 16 == 0 and len(matrix) % 16 == 0


def multiply_fp8(x: Tensor, matrix: Quantized, bias: Tensor | None, out: Tensor) -> None:
    """The product in 8 bits: rows of x get a scale each, as those of the matrix have."""
    rows = quantize(x.float(), matrix.form)
    codes, weight = (codes.view(torch.float8_e4m3fn) for codes in (rows["codes"], matrix.codes))
    product = torch._scaled_mm(codes, weight.t(), rows["scales"], matrix.scales.t(), out_dtype=out.dtype)
    out.copy_(product if bias is None else product + bias)
