"""The torch executor's ops as Triton kernels: the functions of `octavo.executor.torch.ops`, for CUDA devices."""

import os

# Multiplying and adding in one rounding, as Triton always has. Since 3.9 it warns if it isn't told.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

from octavo.executor.torch.kernels.attention import paged_attention
from octavo.executor.torch.kernels.experts import multiply_experts
from octavo.executor.torch.kernels.glu import gated
from octavo.executor.torch.kernels.norm import add_rms_norm, rms_norm
from octavo.executor.torch.kernels.quantized import dequantize, multiply_quantized
from octavo.executor.torch.kernels.rope import rotate_and_store
from octavo.executor.torch.kernels.sampling import draw, penalise
from octavo.executor.torch.kernels.state import delta_step

__all__ = [
    "add_rms_norm",
    "delta_step",
    "dequantize",
    "draw",
    "gated",
    "multiply_experts",
    "multiply_quantized",
    "paged_attention",
    "penalise",
    "rms_norm",
    "rotate_and_store",
]
