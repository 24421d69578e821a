"""MXFP4 as gpt-oss has it: stacks of experts, of which each row is blocks of 32 columns.

X_blocks [E, N, K / 32, 16]   U8, of an even column in the low half
X_scales [E, N, K / 32]       U8, powers of two

W = e * 2 ** (s - 127), a stack [E, N, K]
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from octavo.weights.dtypes import floats
from octavo.weights.quantized.bits import unpack
from octavo.weights.quantized.groups import Groups, rearranged
from octavo.weights.quantized.method import Method, Parts
from octavo.weights.tensor import StoredTensor


class MXFP4(Method):
    names = ("mxfp4",)
    suffixes = ("_blocks", "_scales")
    weight = ""

    def read(self, parts: Parts) -> StoredTensor:
        scales = parts.scales("_scales", ("U8",), (None, None, None))
        codes = parts.array("_blocks", ("U8",), (*scales.shape, 16))
        experts, rows, groups = scales.shape
        group_of = parts.columns("_blocks", groups * 32) // 32
        format, source, _ = rearranged("E2M1", group_of, (codes, scales), _read)
        return parts.stored(format, (experts, rows, groups * 32), source)


def _read(codes: NDArray[Any], scales: NDArray[Any]) -> Groups:
    """Of a stack, or of one matrix."""
    groups = scales.shape[-1]
    return Groups(unpack(codes.reshape(-1, groups * 16), 4, groups * 32), floats(scales, "F8_E8M0").reshape(-1, groups))
