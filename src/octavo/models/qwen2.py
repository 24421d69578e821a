"""Qwen2, Qwen2.5, QwQ, MiMo and the text part of Qwen2-VL, Qwen2.5-VL and Qwen2-Audio."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Qwen2(Decoder):
    """Llama with biases on q, k and v; some layers may have a window (Yang et al. 2024)."""

    architectures: ClassVar[tuple[str, ...]] = ("Qwen2ForCausalLM", "MiMoForCausalLM")
    model_types: ClassVar[tuple[str, ...]] = (
        "qwen2",
        "qwen2_vl",
        "qwen2_vl_text",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "qwen2_5_omni_text",
    )
    defaults = {"max_position_embeddings": 32768}
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily("qwen2"),
        GGUFFamily("qwen2vl", keys={"rope.dimension_sections": "mrope_section"}),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.qkv_bias, self.o_bias = True, False
        if not self.config.flag("use_sliding_window"):
            self.windows = [None] * self.layers

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*super().ignored, r"^model\.mtp_layers\.")  # of MiMo, which draft tokens

    def is_full(self, i: int) -> bool:
        return i < self.config.integer("max_window_layers", 28, low=0)
