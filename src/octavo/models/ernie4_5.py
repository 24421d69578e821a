"""ERNIE 4.5 0.3B, whose larger siblings have experts, and the text part of PaddleOCR-VL."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Ernie45(Decoder):
    """Llama whose heads are rotated in neighbouring pairs (Baidu ERNIE Team 2025)."""

    architectures: ClassVar[tuple[str, ...]] = ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM")
    model_types = ("ernie4_5",)
    fields = {"attention_bias": "use_bias", "mlp_bias": "use_bias"}
    defaults = {"tie_word_embeddings": True, "rope_theta": 500000.0, "rms_norm_eps": 1e-5}
    interleaved = True
    gguf = (GGUFFamily("ernie4_5"),)


class PaddleOCR(Ernie45):
    """The text part of PaddleOCR-VL: halves of heads are rotated."""

    architectures = ("PaddleOCRTextModel",)
    model_types = ("paddleocr_vl_text",)
    interleaved = False
