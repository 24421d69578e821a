"""AWQ (Lin et al. 2023) in the files of AutoAWQ, of its version "gemm".

For K inputs, N outputs, G groups and 4 bits, eight integers in a word, in an order of their own:

qweight [K, N / 8]   u: packed along N
qzeros  [G, N / 8]   z: packed along N
scales  [G, N]       s

W[n, k] = s[g, n] * (u[k, n] - z[g, n]) with groups g of K / G inputs
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from octavo.weights.config_reader import ConfigReader
from octavo.weights.dtypes import floats
from octavo.weights.quantized.bits import unpack_eights
from octavo.weights.quantized.groups import Groups
from octavo.weights.quantized.method import SCALE_DTYPES, Method, Parts
from octavo.weights.tensor import StoredTensor

_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # in a word, of eight neighbouring rows of the matrix


class AWQ(Method):
    names = ("awq",)
    options = ("awq_marlin",)
    suffixes = (".qweight", ".qzeros", ".scales")

    def __init__(self, config: ConfigReader):
        super().__init__(config)
        version = config.text("version", "gemm")
        if version.lower() != "gemm":
            raise config.fail("version", f"{version!r} is not supported, only gemm")
        field = "w_bit" if "w_bit" in config.values else "bits"
        if config.integer(field, 4) != 4:
            raise config.fail(field, f"must be 4, got {config.values[field]}")

        field = "q_group_size" if "q_group_size" in config.values else "group_size"
        self.group_sizes = {config.integer(field, 128, low=-1)}

    def read(self, parts: Parts) -> StoredTensor:
        scales = parts.scales(".scales", SCALE_DTYPES, (None, None))
        groups, rows = scales.shape
        if rows % 8:
            raise parts.fail(".scales", f"has {rows} columns, which words of 8 do not fill")
        zeros = parts.array(".qzeros", ("I32",), (groups, rows // 8))
        packed = parts.array(".qweight", ("I32",), (None, rows // 8))
        dtype = parts.dtype(".scales")

        def read(packed: NDArray[Any], zeros: NDArray[Any], scales: NDArray[Any]) -> Groups:
            scale = floats(scales, dtype).T
            return Groups(unpack_eights(packed.T, _PLACES), scale, -(scale * unpack_eights(zeros.T, _PLACES)))

        group_of = parts.even_groups(".scales", len(packed), groups, self.group_sizes)
        return parts.grouped("U4", group_of, (packed, zeros, scales), read, rows)
