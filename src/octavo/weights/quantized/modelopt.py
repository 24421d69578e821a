"""NVIDIA's ModelOpt: 8-bit floats, and NVFP4, whose scales are times another of the tensor.

FP8    weight  F8_E4M3 [N, K];  weight_scale  F32, as `fp8` says
NVFP4  weight  U8 [N, K / 2];   weight_scale  F8_E4M3 [N, K / 16];   weight_scale_2  F32
"""

from __future__ import annotations

from octavo.weights.config_reader import ConfigReader
from octavo.weights.quantized.fp4 import nvfp4_matrix
from octavo.weights.quantized.fp8 import e4m3_matrix
from octavo.weights.quantized.method import Method, Parts
from octavo.weights.tensor import StoredTensor

_FP8 = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
_NVFP4 = ("NVFP4", "W4A16_NVFP4", "W4A8_NVFP4_FP8")


class ModelOpt(Method):
    """Which of the two a matrix is, its tensors say: a checkpoint may have both ("MIXED_PRECISION")."""

    names = ("modelopt",)
    options = ("modelopt_fp4",)
    suffixes = (".weight_scale", ".weight_scale_2")

    def __init__(self, config: ConfigReader):
        super().__init__(config)
        inner = config.values.get("quantization")
        algorithm = inner.get("quant_algo") if isinstance(inner, dict) else config.values.get("quant_algo")
        known = (*_FP8, *_NVFP4, "MIXED_PRECISION")
        if algorithm not in known:
            raise config.fail("quant_algo", f"{algorithm!r} is not supported, only {', '.join(known)}")

    def read(self, parts: Parts) -> StoredTensor:
        if parts.dtype(".weight") == "U8":
            return nvfp4_matrix(parts, ".weight", ".weight_scale", ".weight_scale_2", divides=False)
        return e4m3_matrix(parts, ".weight_scale", (128, 128))
