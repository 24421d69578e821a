"""Seed-OSS 36B."""

from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class SeedOss(Decoder):
    """Llama with biases on q, k and v, and perhaps on o (ByteDance Seed 2025)."""

    architectures = ("SeedOssForCausalLM",)
    model_types = ("seed_oss",)
    defaults = {"attention_bias": True, "attention_out_bias": False, "max_position_embeddings": 524288}
    gguf = (GGUFFamily("seed_oss", layer={"post_attention_norm": "post_attention_layernorm"}),)
