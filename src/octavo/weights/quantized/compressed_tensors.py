"""compressed-tensors, which llm-compressor writes. A matrix's tensors say what it is; a model may have all kinds.

pack-quantized   weight_packed      I32 [N, ceil(K * b / 32)]   u: packed along K, the lowest bits first
                 weight_scale       [N, G]                      s
                 weight_shape       I64 [2]                     N, K
                 weight_zero_point  I32 [ceil(N * b / 32), G]   z: packed along N; without it, 2 ** (b - 1)
                 weight_g_idx       I32 [K]                     the group of each input; without it, runs of K / G
int-quantized    weight             I8 [N, K]                   q = u - 128; weight_zero_point I8 [N, G] likewise
float-quantized  weight             F8_E4M3 [N, K]              see `fp8`
nvfp4-pack-…     weight_packed      U8 [N, K / 2]               see `fp4`; scales are divided by weight_global_scale
mxfp4-pack-…     the same without weight_global_scale

W = s * (u - z)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.weights.blocks import Bytes
from octavo.weights.config_reader import ConfigReader
from octavo.weights.dtypes import floats
from octavo.weights.quantized.bits import unpack
from octavo.weights.quantized.fp4 import mxfp4_matrix, nvfp4_matrix
from octavo.weights.quantized.fp8 import Block, block_size, e4m3_matrix
from octavo.weights.quantized.groups import Groups
from octavo.weights.quantized.method import SCALE_DTYPES, Method, Parts
from octavo.weights.tensor import StoredTensor

_FORMATS = (
    *("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "nvfp4-pack-quantized"),
    *("mxfp4-pack-quantized", "mxfp8-quantized", "mixed-precision", "dense"),
)


class CompressedTensors(Method):
    names = ("compressed-tensors",)
    suffixes = (
        *(".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx"),
        ".weight_global_scale",
    )

    def __init__(self, config: ConfigReader):
        super().__init__(config)
        for field in ("transform_config", "sparsity_config"):
            said = config.values.get(field)
            if said and said != {"format": "dense"}:
                raise config.fail(field, "is not supported: weights would have to be transformed")
        self.bits: set[int] = set()
        self.group_sizes: set[int] = set()
        self.block: Block | None = None
        groups = config.objects("config_groups")
        for reader in (config, *groups):
            if (format := reader.text("format", "dense")) not in _FORMATS:
                raise reader.fail("format", f"{format!r} is not supported, only {', '.join(_FORMATS)}")
        for weights in (reader.object("weights") for reader in groups):
            self.bits.add(weights.integer("num_bits", 8, high=8))
            if weights.values.get("group_size") is not None:
                self.group_sizes.add(weights.integer("group_size", low=-1))
            self.block = block_size(weights, "block_structure") or self.block

    def read(self, parts: Parts) -> StoredTensor:
        if ".weight_packed" not in parts:
            if parts.dtype(".weight") == "I8":
                return self._int8(parts)
            return e4m3_matrix(parts, ".weight_scale", self.block, self.group_sizes)
        if parts.dtype(".weight_packed") == "I32":
            return self._packed(parts)
        if parts.dtype(".weight_scale") == "F8_E4M3":
            return nvfp4_matrix(parts, ".weight_packed", ".weight_scale", ".weight_global_scale", divides=True)
        return mxfp4_matrix(parts, ".weight_packed", ".weight_scale")

    def _packed(self, parts: Parts) -> StoredTensor:
        rows, columns = map(int, parts.array(".weight_shape", ("I64", "I32"), (2,)))
        words = parts.array(".weight_packed", ("I32",), (rows, None))
        count = words.shape[1]
        fitting = [bits for bits in self.bits if columns > 0 and -(-columns * bits // 32) == count]
        if len(fitting) != 1:
            reason = f"has {count} words a row for {columns} inputs, which is not one of num_bits, {sorted(self.bits)}"
            raise parts.fail(".weight_packed", reason)
        bits = fitting[0]
        return self._integers(parts, words, lambda words: unpack(words, bits, columns), bits, (rows, columns))

    def _int8(self, parts: Parts) -> StoredTensor:
        codes = parts.array(".weight", ("I8",), (None, None))
        rows, columns = codes.shape
        if ".weight_zero_point" not in parts:
            scales = _scales(parts, rows)
            if scales.size in (1, rows):
                of_rows = np.empty(rows, np.float32)
                of_rows[:] = floats(scales, parts.dtype(".weight_scale")).reshape(-1)
                return parts.stored("I8", (rows, columns), codes.reshape(-1).view(np.uint8), scales=of_rows)
        return self._integers(parts, codes, lambda codes: codes.view(np.uint8) ^ np.uint8(128), 8, (rows, columns))

    def _integers(
        self,
        parts: Parts,
        codes: NDArray[Any],
        decode: Callable[[NDArray[Any]], Bytes],
        bits: int,
        shape: tuple[int, int],
    ) -> StoredTensor:
        """The matrix of integers that `decode` makes of `codes`, with scales and zero points, if it has them."""
        rows, columns = shape
        scales = _scales(parts, rows)
        groups, dtype, middle = max(1, scales.size // rows), parts.dtype(".weight_scale"), np.float32(1 << bits - 1)
        arrays = [codes, scales]
        if ".weight_zero_point" in parts:
            packed = -(-rows * bits // 32), groups
            wanted = scales.shape if parts.dtype(".weight_zero_point") == "I8" else packed
            arrays.append(parts.array(".weight_zero_point", ("I8", "I32"), wanted))

        def read(codes: NDArray[Any], scales: NDArray[Any], *zeros: NDArray[Any]) -> Groups:
            scale = np.broadcast_to(floats(scales, dtype).reshape(-1, groups), (rows, groups))
            zero: Any = middle
            for points in zeros:
                if points.dtype == np.int8:
                    zero = points.reshape(-1, groups).astype(np.float32) + middle
                else:
                    zero = unpack(points.T, bits, rows).T.astype(np.float32)
            return Groups(decode(codes), scale, -(scale * zero))

        if ".weight_g_idx" in parts:
            group_of = parts.listed_groups(".weight_g_idx", columns, groups)
        else:
            group_of = parts.even_groups(".weight_scale", columns, groups, self.group_sizes)
        return parts.grouped("U4" if bits <= 4 else "U8", group_of, tuple(arrays), read, rows)


def _scales(parts: Parts, rows: int) -> NDArray[Any]:
    return parts.scales(".weight_scale", SCALE_DTYPES, (rows, None), (rows,), (1, 1), (1,), ())
