"""A plain numpy decoder of every stored format: the reference that native code is tested against.

Source: the block structures of ggml (ggml-common.h) and its reference decoders (ggml-quants.c). Products and
sums are rounded to float32 one by one, in the reference's order, so that all decoders agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from octavo.weights.tensor import FORMATS, StoredTensor

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def dequantize(tensor: StoredTensor) -> Floats:
    """The values of a tensor as float32, in its own shape, rows in their own order."""
    if not tensor.data.size:
        return np.empty(tensor.shape, np.float32)
    blocks = tensor.data.reshape(-1, FORMATS[tensor.format].bytes)
    values = _DECODERS[tensor.format](blocks).reshape(tensor.shape)
    return values if tensor.row_order is None else values[tensor.row_order]


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, shape [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low nibbles of all bytes of a block, then the high ones; [blocks, n] -> [blocks, 2 n]."""
    return np.concatenate([packed & 0xF, packed >> 4], axis=1)


def _plain(dtype: str) -> Callable[[Bytes], Floats]:
    return lambda blocks: np.frombuffer(blocks.tobytes(), dtype).astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (np.frombuffer(blocks.tobytes(), "<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _five_bits(high: Bytes, packed: Bytes) -> Floats:
    """4-bit numbers of Q5_0 and Q5_1 with their fifth bits, which lie apart in `high`, shape [blocks, 4]."""
    return (_nibbles(packed) | np.unpackbits(high, axis=1, bitorder="little") << 4).astype(np.float32)


def _q5_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * (_five_bits(blocks[:, 2:6], blocks[:, 6:]) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _five_bits(blocks[:, 4:8], blocks[:, 8:]) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _fields(packed: Bytes, width: int, bits: int) -> Bytes:
    """Numbers of 1, 2 or 4 bits as K-quants pack them: [blocks, n] -> [blocks, n / width, 8 / bits, width].

    They come in groups of `width` bytes: first the lowest field of every byte, then the next of every byte.
    """
    groups = packed.reshape(len(packed), -1, 1, width)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    return (groups >> shifts) & np.uint8((1 << bits) - 1)


def _q2_k(blocks: Bytes) -> Floats:
    scales = blocks[:, :16]
    scale = _half(blocks, 80) * (scales & 0xF).astype(np.float32)
    minimum = _half(blocks, 82) * (scales >> 4).astype(np.float32)
    quants = _fields(blocks[:, 16:80], 32, 2).reshape(-1, 16, 16).astype(np.float32)
    return scale[:, :, None] * quants - minimum[:, :, None]


def _q3_k(blocks: Bytes) -> Floats:
    low = _nibbles(blocks[:, 96:104])
    high = _fields(blocks[:, 104:108], 4, 2).reshape(-1, 16)
    scale = _half(blocks, 108) * ((low | high << 4).astype(np.float32) - 32)
    third_bits = _fields(blocks[:, :32], 32, 1).reshape(-1, 16, 16)
    quants = _fields(blocks[:, 32:96], 32, 2).reshape(-1, 16, 16) | third_bits << 2
    return scale[:, :, None] * (quants.astype(np.float32) - 4)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """The scales and minima of Q4_K and Q5_K, 6 bits each in bytes 4 to 15; both [blocks, 8, 1]."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, rest & 0xF | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
    scale = _half(blocks, 0) * scales.astype(np.float32)
    minimum = _half(blocks, 2) * minima.astype(np.float32)
    return scale[:, :, None], minimum[:, :, None]


def _q4_k(blocks: Bytes) -> Floats:
    scale, minimum = _scales_and_minima(blocks)
    return scale * _fields(blocks[:, 16:], 32, 4).reshape(-1, 8, 32).astype(np.float32) - minimum


def _q5_k(blocks: Bytes) -> Floats:
    scale, minimum = _scales_and_minima(blocks)
    quants = _fields(blocks[:, 48:], 32, 4).reshape(-1, 8, 32)
    fifth_bits = _fields(blocks[:, 16:48], 32, 1).reshape(-1, 8, 32)
    return scale * (quants | fifth_bits << 4).astype(np.float32) - minimum


def _q6_k(blocks: Bytes) -> Floats:
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    low = _fields(blocks[:, :128], 64, 4).reshape(-1, 16, 16)
    high = _fields(blocks[:, 128:192], 32, 2).reshape(-1, 16, 16)
    return scale[:, :, None] * ((low | high << 4).astype(np.float32) - 32)


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "F32": _plain("<f4"),
    "F16": _plain("<f2"),
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
