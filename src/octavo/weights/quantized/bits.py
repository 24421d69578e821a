"""Integers of a few bits, packed into words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.weights.layout import Bytes


def unpack(words: NDArray[Any], bits: int, count: int) -> Bytes:
    """The first `count` integers of each row of words: [rows, words] -> [rows, count].

    The lowest bits of a row's first word are the first integer's; an integer may begin in one word and end in the next.
    """
    packed = np.ascontiguousarray(words).view(np.uint8)
    if 8 % bits == 0:
        fields = packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
        return fields.reshape(len(packed), -1)[:, :count]
    single = np.unpackbits(packed, axis=1, count=count * bits, bitorder="little")
    return np.packbits(single.reshape(-1, count, bits), axis=2, bitorder="little")[:, :, 0]


def nibbles(packed: Bytes, high_first: bool = False) -> Bytes:
    """Both halves of each byte, next to each other: [rows, n] -> [rows, 2 n]; the low one first, unless it is said."""
    halves = (packed >> 4, packed & 15) if high_first else (packed & 15, packed >> 4)
    return np.stack(halves, axis=-1).reshape(*packed.shape[:-1], -1)
