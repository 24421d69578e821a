"""GPTQ (Frantar et al. 2022) in the files of AutoGPTQ and GPTQModel, and AutoRound's in their form.

For K inputs, N outputs, G groups and b bits, in words of 32 bits, the lowest bits first:

qweight [K * b / 32, N]   u: packed along K
qzeros  [G, N * b / 32]   z: packed along N, and one less than it is in version 1
scales  [G, N]            s
g_idx   [K]               g: the group of each input; without it, groups are runs of K / G inputs

W[n, k] = s[g, n] * (u[k, n] - z[g, n])
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from octavo.weights.config_reader import ConfigReader
from octavo.weights.dtypes import floats
from octavo.weights.quantized.bits import unpack
from octavo.weights.quantized.groups import Groups
from octavo.weights.quantized.method import SCALE_DTYPES, Method, Parts
from octavo.weights.tensor import StoredTensor


class GPTQ(Method):
    names: ClassVar[tuple[str, ...]] = ("gptq",)
    options = ("gptq_marlin",)
    suffixes = (".qweight", ".qzeros", ".scales", ".g_idx")

    def __init__(self, config: ConfigReader):
        super().__init__(config)
        field = "checkpoint_format" if config.values.get("checkpoint_format") is not None else "format"
        version = config.text(field, "gptq")
        if version not in ("gptq", "gptq_v2"):
            raise config.fail(field, f"{version!r} is not supported, only gptq and gptq_v2")
        self.zero_offset = np.float32(version == "gptq")

    def read(self, parts: Parts) -> StoredTensor:
        scales = parts.scales(".scales", SCALE_DTYPES, (None, None))
        groups, rows = scales.shape
        zeros = parts.array(".qzeros", ("I32",), (groups, None))
        bits, rest = divmod(zeros.shape[1] * 32, rows)
        if rest or not 2 <= bits <= 8:
            reason = f"has {zeros.shape[1]} words for {rows} zero points, which is no number of 2 to 8 bits for each"
            raise parts.fail(".qzeros", reason)
        packed = parts.array(".qweight", ("I32",), (None, rows))
        columns, rest = divmod(len(packed) * 32, bits)
        if rest:
            raise parts.fail(".qweight", f"has {len(packed)} rows of words, which no number of {bits} bits fills")
        dtype = parts.dtype(".scales")

        def read(packed: NDArray[Any], zeros: NDArray[Any], scales: NDArray[Any]) -> Groups:
            scale = floats(scales, dtype)
            zero = unpack(zeros, bits, rows).astype(np.float32) + self.zero_offset
            return Groups(unpack(packed.T, bits, columns), scale.T, -(scale * zero).T)

        if ".g_idx" in parts:
            group_of = parts.listed_groups(".g_idx", columns, groups)
        else:
            group_of = parts.even_groups(".scales", columns, groups)
        return parts.grouped("U4" if bits <= 4 else "U8", group_of, (packed, zeros, scales), read, rows)


class AutoRound(GPTQ):
    """AutoRound (Cheng et al. 2023) packs as GPTQ's version 1 does, unless it is told otherwise."""

    names: ClassVar[tuple[str, ...]] = ("auto-round", "auto_round", "intel/auto-round")

    def __init__(self, config: ConfigReader):
        super().__init__(config)
        packing = config.text("packing_format", "auto_round:auto_gptq")
        if "gptq" not in packing:
            raise config.fail("packing_format", f"{packing!r} is not supported, only auto_round:auto_gptq")
