"""Integers of a few bits, packed into words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.weights.blocks import Bytes


def unpack(words: NDArray[Any], bits: int, count: int) -> Bytes:
    """The first `count` integers of each row of words: [rows, words] -> [rows, count].

    The lowest bits of a row's first word are the first integer's; an integer may begin in one word and end in the next.
    """
    packed = np.ascontiguousarray(words).view(np.uint8)
    eights = np.pad(packed, ((0, 0), (0, -packed.shape[1] % bits))).reshape(len(packed), -1, bits)
    out = np.empty((*eights.shape[:2], 8), np.uint8)
    for i in range(8):
        byte, shift = divmod(i * bits, 8)
        field = eights[:, :, byte] >> np.uint8(shift)
        if shift + bits > 8:
            field |= eights[:, :, byte + 1] << np.uint8(8 - shift)
        out[:, :, i] = field & np.uint8((1 << bits) - 1)
    return out.reshape(len(packed), -1)[:, :count]


def nibbles(packed: Bytes, high_first: bool = False) -> Bytes:
    """Both halves of each byte, next to each other: [..., n] -> [..., 2 n]; the low one first, unless it is said."""
    out = np.empty((*packed.shape, 2), np.uint8)
    out[..., int(high_first)] = packed & np.uint8(15)
    out[..., int(not high_first)] = packed >> np.uint8(4)
    return out.reshape(*packed.shape[:-1], -1)
