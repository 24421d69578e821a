"""Seed-OSS 36B."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import LAYER, GGUFFamily


class SeedOss(Decoder):
    """Llama with biases on q, k and v, and perhaps on o (ByteDance Seed 2025)."""

    architectures = ("SeedOssForCausalLM",)
    model_types = ("seed_oss",)
    defaults = {"attention_bias": True, "max_position_embeddings": 524288}
    gguf = (
        GGUFFamily(
            "seed_oss",
            "SeedOssForCausalLM",
            layer={**LAYER, "post_attention_norm": "post_attention_layernorm"},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.o_bias = self.config.flag("attention_out_bias")
