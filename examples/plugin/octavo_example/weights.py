"""Checkpoints of int8 matrices with a scale for each row.

X.weight_codes [N, K]   I8
X.weight_scale [N]      F32

W = s * q
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.weights.quantized.groups import Groups
from octavo.weights.quantized.method import Method, Parts
from octavo.weights.tensor import StoredTensor


class RowInt8(Method):
    names = ("row_int8",)  # of quant_method in config.json's quantization_config, and of --quantization
    suffixes = (".weight_codes", ".weight_scale")

    def read(self, parts: Parts) -> StoredTensor:
        codes = parts.array(".weight_codes", ("I8",), (None, None))
        scales = parts.scales(".weight_scale", ("F32",), (len(codes),))
        group_of = parts.columns(".weight_codes", codes.shape[1]) * 0  # one group: the row
        return parts.grouped("U8", group_of, (codes, scales), _read, len(codes))


def _read(codes: NDArray[Any], scales: NDArray[Any]) -> Groups:
    """The same as unsigned codes with a scale and a minimum: s * (u - 128)."""
    scales = scales[:, None]
    return Groups((codes.view(np.uint8) ^ np.uint8(128)), scales, -128 * scales)
