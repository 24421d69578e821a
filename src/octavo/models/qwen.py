"""Qwen 1."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Qwen(Decoder):
    """Llama with names of its own, and q, k and v, with biases, stored as one (Bai et al. 2023)."""

    architectures = ("QWenLMHeadModel",)
    fields = {
        "rms_norm_eps": "layer_norm_epsilon",
        "max_position_embeddings": "seq_length",
        "rope_theta": "rotary_emb_base",
    }
    defaults = {"attention_bias": True, "attention_out_bias": False}
    embed_name = "transformer.wte"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    names = {
        "attn_norm": "ln_1",
        "attention": "attn",
        "attn_qkv": "c_attn",
        "attn_output": "c_proj",
        "ffn_norm": "ln_2",
        "ffn_gate": "w2",
        "ffn_up": "w1",
        "ffn_down": "c_proj",
    }
    gguf = (GGUFFamily("qwen"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        both = config.integer("intermediate_size")  # what gate and up have together
        super().__init__(ConfigReader({**config.values, "intermediate_size": both // 2}, config.fail), max_model_len)
