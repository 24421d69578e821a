"""How values are written down in files: the layouts of stored weights, each with its size and a plain numpy decoder.

The decoders are the reference that native code is tested against. Source: the block structures of ggml (ggml-common.h)
and its reference decoders (ggml-quants.c). Products and sums are rounded to float32 one by one, in the reference's
order, so that all decoders agree bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from octavo.weights import layout_iq as iq
from octavo.weights.blocks import Bytes, Floats, fields, half, nibbles

# What the codes of 4-bit formats stand for: OCP's E2M1 (Microscaling Formats 1.0), NF4 (Dettmers et al. 2023) and the
# FP4 of bitsandbytes.
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)  # no negative zero
_DOUBLED_E2M1 = 2 * E2M1
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
_FP4 = [0.0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4]
FP4 = np.array([*_FP4, *(-x for x in _FP4)], np.float32)


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of values in blocks of `block` along the innermost axis, each `block_bytes` long.

    `decode` takes blocks [blocks, block_bytes] and returns the values in order, of any shape. With `scales` they are
    still to be multiplied with those of their rows, which are a tensor of their own.
    """

    name: str
    block: int
    block_bytes: int
    decode: Callable[..., Floats]
    ggml_type: int | None = None  # its number in GGUF files, of their enum ggml_type
    scales: bool = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a row-major tensor. Raises ValueError if its rows are not a whole number of blocks."""
        innermost = shape[-1] if shape else 1
        if innermost % self.block:
            raise ValueError(f"rows of {innermost} elements are not a multiple of {self.name}'s block of {self.block}")
        return math.prod(shape) // self.block * self.block_bytes


def _plain(dtype: str) -> Callable[[Bytes], Floats]:
    return lambda blocks: np.frombuffer(blocks.tobytes(), dtype).astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (np.frombuffer(blocks.tobytes(), "<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return half(blocks, 0) * (nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    return half(blocks, 0) * nibbles(blocks[:, 4:]).astype(np.float32) + half(blocks, 2)


def _five_bits(high: Bytes, packed: Bytes) -> Floats:
    """4-bit numbers of Q5_0 and Q5_1 with their fifth bits, which lie apart in `high`, shape [blocks, 4]."""
    return (nibbles(packed) | np.unpackbits(high, axis=1, bitorder="little") << 4).astype(np.float32)


def _q5_0(blocks: Bytes) -> Floats:
    return half(blocks, 0) * (_five_bits(blocks[:, 2:6], blocks[:, 6:]) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    return half(blocks, 0) * _five_bits(blocks[:, 4:8], blocks[:, 8:]) + half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q2_k(blocks: Bytes) -> Floats:
    scales = blocks[:, :16]
    scale = half(blocks, 80) * (scales & 0xF).astype(np.float32)
    minimum = half(blocks, 82) * (scales >> 4).astype(np.float32)
    quants = fields(blocks[:, 16:80], 32, 2).reshape(-1, 16, 16).astype(np.float32)
    return scale[:, :, None] * quants - minimum[:, :, None]


def _q3_k(blocks: Bytes) -> Floats:
    low = nibbles(blocks[:, 96:104])
    high = fields(blocks[:, 104:108], 4, 2).reshape(-1, 16)
    scale = half(blocks, 108) * ((low | high << 4).astype(np.float32) - 32)
    third_bits = fields(blocks[:, :32], 32, 1).reshape(-1, 16, 16)
    quants = fields(blocks[:, 32:96], 32, 2).reshape(-1, 16, 16) | third_bits << 2
    return scale[:, :, None] * (quants.astype(np.float32) - 4)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """The scales and minima of Q4_K and Q5_K, 6 bits each in bytes 4 to 15; both [blocks, 8, 1]."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, rest & 0xF | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
    scale = half(blocks, 0) * scales.astype(np.float32)
    minimum = half(blocks, 2) * minima.astype(np.float32)
    return scale[:, :, None], minimum[:, :, None]


def _q4_k(blocks: Bytes) -> Floats:
    scale, minimum = _scales_and_minima(blocks)
    return scale * fields(blocks[:, 16:], 32, 4).reshape(-1, 8, 32).astype(np.float32) - minimum


def _q5_k(blocks: Bytes) -> Floats:
    scale, minimum = _scales_and_minima(blocks)
    quants = fields(blocks[:, 48:], 32, 4).reshape(-1, 8, 32)
    fifth_bits = fields(blocks[:, 16:48], 32, 1).reshape(-1, 8, 32)
    return scale * (quants | fifth_bits << 4).astype(np.float32) - minimum


def _q6_k(blocks: Bytes) -> Floats:
    scale = half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    low = fields(blocks[:, :128], 64, 4).reshape(-1, 16, 16)
    high = fields(blocks[:, 128:192], 32, 2).reshape(-1, 16, 16)
    return scale[:, :, None] * ((low | high << 4).astype(np.float32) - 32)


def _tq1_0(blocks: Bytes) -> Floats:
    def digits(packed: Bytes, count: int) -> Bytes:
        """A byte is a fraction of 256; the first digits of it in base 3, of all bytes in turn."""
        fractions = packed[:, None, :] * (3 ** np.arange(count, dtype=np.uint8))[:, None]
        return (fractions.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(len(packed), -1)

    parts = digits(blocks[:, :32], 5), digits(blocks[:, 32:48], 5), digits(blocks[:, 48:52], 4)
    return half(blocks, 52) * (np.concatenate(parts, axis=1).astype(np.float32) - 1)


def _tq2_0(blocks: Bytes) -> Floats:
    return half(blocks, 64) * (fields(blocks[:, :64], 32, 2).reshape(-1, 256).astype(np.float32) - 1)


def _mxfp4(blocks: Bytes) -> Floats:
    scale = np.ldexp(np.ones((len(blocks), 1), np.float32), blocks[:, :1].astype(np.int32) - 128)
    return scale * _DOUBLED_E2M1[nibbles(blocks[:, 1:])]


def _nvfp4(blocks: Bytes) -> Floats:
    scale = np.where(blocks[:, :4] == 127, np.float32(0), _e4m3_size(blocks[:, :4]) / 2)
    return scale[:, :, None] * _DOUBLED_E2M1[fields(blocks[:, 4:], 8, 4).reshape(-1, 4, 16)]


def _e4m3_size(codes: Bytes) -> Floats:
    """Of 8-bit floats without their sign, as if all were numbers."""
    exponent, fraction = codes >> 3 & 15, (codes & 7).astype(np.float32)
    return np.where(exponent == 0, fraction / 512, np.ldexp(1 + fraction / 8, exponent.astype(np.int32) - 7))


def _e4m3(codes: Bytes) -> Floats:
    """OCP's 8-bit floats of 4 bits of exponent, which have no infinity (FP8 Formats for Deep Learning, 2022)."""
    size = np.where(codes & 127 == 127, np.nan, _e4m3_size(codes))
    return np.where(codes & 128, -size, size).astype(np.float32)


E4M3: Floats = _e4m3(np.arange(256, dtype=np.uint8))


def _grouped(name: str, group: int, values: Callable[[Bytes], Floats], bits: int, minimum: bool = False) -> Layout:
    """A group of values and its float32 scale, and minimum: what checkpoints with scales apart are rearranged to.

    In 4 bits, the low halves of all bytes come first.
    """
    head = 8 if minimum else 4

    def decode(blocks: Bytes) -> Floats:
        scale, *rest = np.split(np.ascontiguousarray(blocks[:, :head]).view("<f4"), head // 4, axis=1)
        scaled = scale * values(nibbles(blocks[:, head:]) if bits == 4 else blocks[:, head:])
        return scaled + rest[0] if minimum else scaled

    return Layout(f"{name}_G{group}", group, head + group * bits // 8, decode)


def _integers(codes: Bytes) -> Floats:
    return codes.astype(np.float32)


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("F32", 1, 4, _plain("<f4"), 0),
        Layout("F16", 1, 2, _plain("<f2"), 1),
        Layout("BF16", 1, 2, _bf16, 30),
        Layout("Q4_0", 32, 18, _q4_0, 2),
        Layout("Q4_1", 32, 20, _q4_1, 3),
        Layout("Q5_0", 32, 22, _q5_0, 6),
        Layout("Q5_1", 32, 24, _q5_1, 7),
        Layout("Q8_0", 32, 34, _q8_0, 8),
        Layout("Q2_K", 256, 84, _q2_k, 10),
        Layout("Q3_K", 256, 110, _q3_k, 11),
        Layout("Q4_K", 256, 144, _q4_k, 12),
        Layout("Q5_K", 256, 176, _q5_k, 13),
        Layout("Q6_K", 256, 210, _q6_k, 14),
        Layout("IQ2_XXS", 256, 66, iq.iq2_xxs, 16),
        Layout("IQ2_XS", 256, 74, iq.iq2_xs, 17),
        Layout("IQ3_XXS", 256, 98, iq.iq3_xxs, 18),
        Layout("IQ1_S", 256, 50, iq.iq1_s, 19),
        Layout("IQ4_NL", 32, 18, iq.iq4_nl, 20),
        Layout("IQ3_S", 256, 110, iq.iq3_s, 21),
        Layout("IQ2_S", 256, 82, iq.iq2_s, 22),
        Layout("IQ4_XS", 256, 136, iq.iq4_xs, 23),
        Layout("IQ1_M", 256, 56, iq.iq1_m, 29),
        Layout("TQ1_0", 256, 54, _tq1_0, 34),
        Layout("TQ2_0", 256, 66, _tq2_0, 35),
        Layout("MXFP4", 32, 17, _mxfp4, 39),
        Layout("NVFP4", 64, 36, _nvfp4, 40),
        *(_grouped("U4", group, _integers, 4, minimum=True) for group in (32, 64, 128)),
        *(_grouped("U8", group, _integers, 8, minimum=True) for group in (32, 64, 128)),
        *(_grouped("E4M3", group, E4M3.__getitem__, 8) for group in (32, 64, 128)),
        *(_grouped("E2M1", group, E2M1.__getitem__, 4) for group in (16, 32)),
        _grouped("NF4", 64, NF4.__getitem__, 4),
        _grouped("FP4", 64, FP4.__getitem__, 4),
        Layout("I8", 1, 1, _plain("<i1"), scales=True),
    )
}

# The layouts of plain numbers, by the names of data types.
PLAIN = {"float32": LAYOUTS["F32"], "float16": LAYOUTS["F16"], "bfloat16": LAYOUTS["BF16"]}
