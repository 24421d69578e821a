"""Fields of packed blocks, which decoders of stored formats have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, shape [blocks, 1]."""
    return words(blocks[:, at : at + 2], "<u2").view("<f2").astype(np.float32)


def words(blocks: Bytes, dtype: str) -> NDArray[np.uint32]:
    """Bytes as words of several: [blocks, n] -> [blocks, n / bytes of a word]."""
    return np.ascontiguousarray(blocks).view(dtype)


def nibbles(packed: Bytes) -> Bytes:
    """Low nibbles of all bytes of a block, then the high ones; [blocks, n] -> [blocks, 2 n]."""
    return np.concatenate([packed & 0xF, packed >> 4], axis=1)


def fields(packed: Bytes, width: int, bits: int) -> Bytes:
    """Numbers of 1, 2 or 4 bits as K-quants pack them: [blocks, n] -> [blocks, n / width, 8 / bits, width].

    They come in groups of `width` bytes: first the lowest field of every byte, then the next of every byte.
    """
    groups = packed.reshape(len(packed), -1, 1, width)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    return (groups >> shifts) & np.uint8((1 << bits) - 1)
