"""bitsandbytes: NF4 and FP4 (Dettmers et al. 2023), int8 with a scale for each row (Dettmers et al. 2022).

weight                       U8 [N * K / 2, 1]   4 bits of each number, by rows, an even one in the high half
weight.quant_map             F32 [16]            what they stand for
weight.absmax                F32 [N * K / B]     a: the scale of each block of B numbers; or U8, if scales are quantized
weight.nested_absmax         F32 [.../256]       and a is quant_map[absmax] * absmax of its 256 scales + offset
weight.nested_quant_map      F32 [256]
weight.quant_state.bitsandbytes__nf4, or __fp4   U8: JSON with shape, blocksize, nested_blocksize, nested_offset

W = quant_map[q] * a

weight  I8 [N, K];  SCB  F32 [N]:  W = w * SCB / 127
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.weights.blocks import Bytes, Floats
from octavo.weights.config_reader import ConfigReader
from octavo.weights.files import parse_object
from octavo.weights.layout import FP4, NF4
from octavo.weights.quantized.bits import unpack
from octavo.weights.quantized.groups import Groups, as_bytes
from octavo.weights.quantized.method import MAX_SCALE, Method, Parts
from octavo.weights.tensor import Rearranged, StoredTensor

_STATE = ".weight.quant_state.bitsandbytes__"
_TABLES = {"NF4": NF4, "FP4": FP4}


class BitsAndBytes(Method):
    names = ("bitsandbytes",)
    suffixes = (
        *(f".weight.{part}" for part in ("absmax", "quant_map", "nested_absmax", "nested_quant_map")),
        *(_STATE + kind.lower() for kind in _TABLES),
        ".SCB",
        ".weight_format",
    )

    def read(self, parts: Parts) -> StoredTensor:
        if ".SCB" in parts:
            return _int8(parts)
        for kind in _TABLES:
            if _STATE + kind.lower() in parts:
                return _four_bits(parts, kind, _STATE + kind.lower())
        raise parts.fail(f"{_STATE}nf4", "is missing, and so is that of fp4")


def _int8(parts: Parts) -> StoredTensor:
    codes = parts.array(".weight", ("I8",), (None, None))
    scales = parts.scales(".SCB", ("F32",), codes.shape[:1])
    if ".weight_format" in parts and parts.array(".weight_format", ("U8",), (), (1,)).any():
        raise parts.fail(".weight_format", "must be 0, which says that the weight lies by rows")
    return parts.stored("I8", codes.shape, codes.reshape(-1).view(np.uint8), scales=scales / np.float32(127))


def _four_bits(parts: Parts, kind: str, suffix: str) -> StoredTensor:
    state = _state(parts, suffix)
    rows, columns = _shape(state)
    count, block = rows * columns, state.integer("blocksize")
    packed = parts.array(".weight", ("U8",), (count // 2, 1), (1, count // 2), (count // 2,))
    table = _map(parts, ".weight.quant_map", 16)
    arrays, scales_of = _scales(parts, -(-count // block), state)

    def flat(packed: NDArray[Any], *scales: NDArray[Any]) -> Bytes:
        codes = _unpack(packed.reshape(1, -1))[0]
        return as_bytes(table[codes] * np.repeat(scales_of(*scales), block)[:count])

    def by_rows(packed: NDArray[Any], *scales: NDArray[Any]) -> Groups:
        return Groups(_unpack(packed.reshape(rows, -1)), scales_of(*scales).reshape(rows, -1))

    if columns % block or not np.allclose(table, _TABLES[kind], rtol=1e-6, atol=0):
        return parts.stored("F32", (rows, columns), Rearranged((packed, *arrays), flat))
    return parts.grouped(kind, parts.columns(suffix, columns) // block, (packed, *arrays), by_rows, rows)


def _unpack(packed: NDArray[Any]) -> Bytes:
    """[rows, bytes] -> [rows, 2 * bytes]"""
    return unpack(packed >> np.uint8(4) | packed << np.uint8(4), 4, 2 * packed.shape[1])


def _state(parts: Parts, suffix: str) -> ConfigReader:
    text = parts.array(suffix, ("U8",), (None,)).tobytes()
    file, name = parts.place(suffix)
    return ConfigReader.of_file(parse_object(text, file, name), file, f"{name}.")


def _shape(state: ConfigReader) -> tuple[int, int]:
    shape = state.integers("shape", low=1)
    if len(shape) != 2 or shape[0] * shape[1] % 2:
        raise state.fail("shape", f"must be that of a matrix of an even number of elements, got {shape}")
    return shape[0], shape[1]


def _map(parts: Parts, suffix: str, count: int) -> Floats:
    table = parts.scales(suffix, ("F32",), (count,)).copy()
    if np.abs(table).max() > 1:
        raise parts.fail(suffix, "has numbers beyond -1 to 1")
    return table


def _scales(
    parts: Parts, count: int, state: ConfigReader
) -> tuple[tuple[NDArray[Any], ...], Callable[..., NDArray[Any]]]:
    """The arrays that `count` scales are made of, and how."""
    if parts.dtype(".weight.absmax") == "F32":
        return (parts.scales(".weight.absmax", ("F32",), (count,)),), lambda scales: scales
    codes = parts.array(".weight.absmax", ("U8",), (count,))
    table = _map(parts, ".weight.nested_quant_map", 256)
    block = state.integer("nested_blocksize")
    outer = parts.scales(".weight.nested_absmax", ("F32",), (-(-count // block),))
    offset = state.values.get("nested_offset")
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not abs(offset) <= MAX_SCALE:
        raise state.fail("nested_offset", f"must be a finite number, got {offset!r}")
    shift = np.float32(offset)

    def scales_of(codes: NDArray[Any], outer: NDArray[Any]) -> NDArray[Any]:
        scales: NDArray[Any] = table.take(codes) * np.repeat(outer, block)[:count] + shift
        return scales

    return (codes, outer), scales_of
