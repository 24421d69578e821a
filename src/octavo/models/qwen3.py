"""Qwen3, its embedders and rerankers, and the text part of Qwen3-VL."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.decoder import HEAD_NORMS
from octavo.models.qwen2 import Qwen2
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

VL_KEYS = {"rope.dimension_sections": "mrope_section", "n_deepstack_layers": "deepstack_layers"}


class Qwen3(Qwen2):
    """Llama with an RMS norm of every head of q and k before they are rotated (Yang et al. 2025)."""

    architectures: ClassVar[tuple[str, ...]] = ("Qwen3ForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("qwen3", "qwen3_vl_text")
    names = HEAD_NORMS
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (GGUFFamily("qwen3"), GGUFFamily("qwen3vl", keys=VL_KEYS))

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.qkv_bias = self.o_bias = self.config.flag("attention_bias")
