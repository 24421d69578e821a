"""Matrices of 4-bit floats (E2M1): NVFP4, MXFP4.

packed  [N, K / 2]   bytes, of an even column in the low half
scales  [N, K / 16]  E4M3, which NVFP4 has; times or by one float32 of the tensor
        [N, K / 32]  E8M0, powers of two, which MXFP4 has
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.weights.blocks import Floats
from octavo.weights.dtypes import floats
from octavo.weights.quantized.bits import unpack
from octavo.weights.quantized.groups import Groups
from octavo.weights.quantized.method import MAX_SCALE, Parts
from octavo.weights.tensor import StoredTensor


def nvfp4_matrix(parts: Parts, packed: str, suffix: str, of_tensor: str, divides: bool) -> StoredTensor:
    """W = e * (s * t), or e * (s / t): the part `of_tensor` is the float32 t."""
    t = np.float32(parts.scales(of_tensor, ("F32",), (), (1,)).reshape(()))
    if divides and abs(t) < 1 / MAX_SCALE:
        raise parts.fail(of_tensor, f"is {t:g}, by which scales can't be divided")
    return _matrix(
        *(parts, packed, suffix, ("F8_E4M3",), 16),
        lambda s: floats(s, "F8_E4M3") / t if divides else floats(s, "F8_E4M3") * t,
    )


def mxfp4_matrix(parts: Parts, packed: str, suffix: str) -> StoredTensor:
    """W = e * 2 ** (s - 127)"""
    return _matrix(parts, packed, suffix, ("U8", "F8_E8M0"), 32, lambda s: floats(s, "F8_E8M0"))


def _matrix(
    parts: Parts,
    packed: str,
    suffix: str,
    dtypes: tuple[str, ...],
    size: int,
    decode: Callable[[NDArray[Any]], Floats],
) -> StoredTensor:
    codes = parts.array(packed, ("U8",), (None, None))
    rows, columns = len(codes), codes.shape[1] * 2
    if columns % size:
        raise parts.fail(packed, f"has {columns} inputs, which groups of {size} do not divide")
    scales = parts.scales(suffix, dtypes, (rows, columns // size))

    def read(codes: NDArray[Any], scales: NDArray[Any]) -> Groups:
        return Groups(unpack(codes, 4, columns), decode(scales))

    return parts.grouped("E2M1", parts.columns(packed, columns) // size, (codes, scales), read, rows)
