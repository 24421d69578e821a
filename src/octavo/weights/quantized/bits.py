"""Integers of a few bits, packed into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.weights.blocks import Bytes


def unpack(words: NDArray[Any], bits: int, count: int) -> Bytes:
    """The first `count` integers of each row of words, or of bytes: [rows, words] -> [rows, count].

    The lowest bits of a row's first word are the first integer's; an integer may begin in one word and end in the next.
    """
    out = np.empty((len(words), count), np.uint8)
    _native.unpack(words, bits, out)
    return out


def unpack_eights(words: NDArray[Any], places: Sequence[int]) -> Bytes:
    """Integers of 4 bits, of which a word has those of eight rows: [rows / 8, columns] -> [rows, columns].

    Row i of eight is at place `places[i]` of a word.
    """
    out = np.empty((len(words) * 8, words.shape[1]), np.uint8)
    _native.unpack_eights(words, places, out)
    return out
