"""Decoders of ggml's IQ formats: blocks [blocks, block bytes] to the values in order, [blocks, 256] or [blocks, 32].

Neighbouring values, 8 or 4, are a point of a grid, whose place in a list is stored, and signs. A scale is an odd number
times that of the block. Source: ggml's reference decoders (ggml-quants.c).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.weights.blocks import Bytes, Floats, fields, half, nibbles, words

# What the digits of a grid stand for, or the 4 bits of IQ4.
_IQ1 = np.array([-1, 0, 1], np.float32)
_IQ2 = np.array([8, 25, 43], np.float32)
_IQ3_XXS = np.array([4, 12, 20, 28, 36, 44, 52, 62], np.float32)
_IQ3_S = np.arange(1, 16, 2, dtype=np.float32)
_EIGHTH = np.float32(0.125)
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def _points(grid: str, places: NDArray[Any]) -> Bytes:
    """The digits of points: [blocks, n] -> [blocks, n * width of the grid]."""
    points: Bytes = _native.grid(grid)[places]
    return points.reshape(len(places), -1)


def _joined(low: Bytes, high: NDArray[Any]) -> NDArray[np.uint16]:
    """Places of which a byte and some higher bits are stored apart."""
    return low | high.astype(np.uint16) << np.uint16(8)


def _bits(packed: Bytes) -> Bytes:
    """The bits of bytes, the lowest first: [blocks, n] -> [blocks, n, 8]."""
    return np.unpackbits(packed, axis=1, bitorder="little").reshape(len(packed), -1, 8)


def _signs(bits: Bytes) -> Floats:
    """1, or -1 where a bit is set: [blocks, n, 8] -> [blocks, 8 n]."""
    return 1 - 2 * bits.reshape(len(bits), -1).astype(np.float32)


def _even_signs(packed: NDArray[Any]) -> Floats:
    """Of 7 bits each, and an eighth that makes the number of minuses even: [blocks, …] -> [blocks, 8 n]."""
    bits = _bits((packed & 127).astype(np.uint8).reshape(len(packed), -1))
    bits[:, :, 7] = bits.sum(axis=2) & 1
    return _signs(bits)


def _scaled(scale: Floats, odd: NDArray[Any], values: Floats) -> Floats:
    """`scale` [blocks, 1] times 2 * `odd` + 1 [blocks, groups] times values, of as many groups."""
    scales = scale * (2 * odd.astype(np.float32) + 1)
    return values.reshape(*scales.shape, -1) * scales[:, :, None]


def _pairs(packed: Bytes) -> Bytes:
    """Low and high nibble of each byte in turn: [blocks, n] -> [blocks, 2 n]."""
    return fields(packed, 1, 4).reshape(len(packed), -1)


def iq2_xxs(blocks: Bytes) -> Floats:
    groups = blocks[:, 2:].reshape(len(blocks), 8, 8)
    rest = words(groups[:, :, 4:].reshape(len(blocks), -1), "<u4")
    signs = _even_signs(rest[:, :, None] >> np.arange(0, 28, 7, dtype=np.uint32))
    low = groups[:, :, :4].reshape(len(blocks), -1)
    return _scaled(half(blocks, 0) * _EIGHTH, rest >> 28, _IQ2[_points("IQ2_XXS", low)] * signs)


def iq2_xs(blocks: Bytes) -> Floats:
    places = words(blocks[:, 2:66], "<u2")
    values = _IQ2[_points("IQ2_XS", places & 511)] * _even_signs(places >> 9)
    return _scaled(half(blocks, 0) * _EIGHTH, _pairs(blocks[:, 66:]), values)


def iq2_s(blocks: Bytes) -> Floats:
    high = fields(blocks[:, 66:74], 1, 2).reshape(len(blocks), -1)
    values = _IQ2[_points("IQ2_S", _joined(blocks[:, 2:34], high))] * _signs(_bits(blocks[:, 34:66]))
    return _scaled(half(blocks, 0) * _EIGHTH, _pairs(blocks[:, 74:]), values)


def iq3_xxs(blocks: Bytes) -> Floats:
    low, rest = blocks[:, 2:66], words(blocks[:, 66:], "<u4")
    signs = _even_signs(rest[:, :, None] >> np.arange(0, 28, 7, dtype=np.uint32))
    return _scaled(half(blocks, 0) * (2 * _EIGHTH), rest >> 28, _IQ3_XXS[_points("IQ3_XXS", low)] * signs)


def iq3_s(blocks: Bytes) -> Floats:
    high = _bits(blocks[:, 66:74]).reshape(len(blocks), -1)
    values = _IQ3_S[_points("IQ3_S", _joined(blocks[:, 2:66], high))] * _signs(_bits(blocks[:, 74:106]))
    return _scaled(half(blocks, 0), _pairs(blocks[:, 106:]), values)


def _moved(points: Bytes, down: NDArray[Any]) -> Floats:
    """Points of IQ1, an eighth higher, or lower where `down` [blocks, parts] is true."""
    values = _IQ1[points].reshape(*down.shape, -1)
    return (values + np.where(down, -_EIGHTH, _EIGHTH)[:, :, None]).reshape(len(points), -1)


def iq1_s(blocks: Bytes) -> Floats:
    rest = words(blocks[:, 34:], "<u2")
    high = (rest[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7).reshape(len(blocks), -1)
    values = _moved(_points("IQ1", _joined(blocks[:, 2:34], high)), rest >> 15 != 0)
    return _scaled(half(blocks, 0), rest >> 12 & 7, values)


def iq1_m(blocks: Bytes) -> Floats:
    rest, high = words(blocks[:, 48:], "<u2"), _pairs(blocks[:, 32:48])
    parts = (rest >> 12) << np.arange(0, 16, 4, dtype=np.uint16)  # of the float16, which lies with the scales
    scale = np.bitwise_or.reduce(parts, axis=1, keepdims=True).view("<f2").astype(np.float32)
    scales = (rest[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7).reshape(len(blocks), -1)
    return _scaled(scale, scales, _moved(_points("IQ1", _joined(blocks[:, :32], high & 7)), high & 8 != 0))


def iq4_nl(blocks: Bytes) -> Floats:
    return half(blocks, 0) * _IQ4[nibbles(blocks[:, 2:])]


def iq4_xs(blocks: Bytes) -> Floats:
    high = words(blocks[:, 2:4], "<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scale = half(blocks, 0) * ((_pairs(blocks[:, 4:8]) | high << 4).astype(np.float32) - 32)
    return scale[:, :, None] * _IQ4[fields(blocks[:, 8:], 16, 4).reshape(-1, 8, 32)]
