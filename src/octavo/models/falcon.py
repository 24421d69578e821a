"""Falcon 7B, 11B, 40B, 180B and RW. Falcon 3 is a Llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.models.alibi import alibi_slopes
from octavo.models.decoder import MEGATRON, Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Falcon(Decoder):
    """Attention and MLP side by side, of one norm or of two; no gate; few KV heads (Almazrouei et al. 2023).

    RW has slopes (ALiBi) in place of rotary positions, and its branches behind each other.
    """

    architectures = ("FalconForCausalLM", "RWForCausalLM")
    model_types = ("falcon",)
    fields = {
        "num_key_value_heads": "num_kv_heads",
        "intermediate_size": "ffn_hidden_size",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation",
        "attention_bias": "bias",
        "mlp_bias": "bias",
    }
    defaults = {"hidden_act": "gelu", "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    mlp_factor = 4
    is_layer_norm = True
    qkv_by_heads = True
    embed_name = "transformer.word_embeddings"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    names = MEGATRON | {"attention": "self_attention"}
    gguf = (GGUFFamily("falcon", values={"multi_query": False}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        is_new = config.flag("new_decoder_architecture")
        one = {"num_kv_heads": 1} if config.flag("multi_query", True) and not is_new else {}  # whatever else it says
        self.has_rope = not config.flag("alibi")
        super().__init__(ConfigReader({**config.values, **one}, config.fail), max_model_len)
        self.is_parallel = is_new or config.flag("parallel_attn", True)
        if self.is_parallel and config.integer("num_ln_in_parallel_attn", 2 if is_new else 1) == 2:
            self.parts = {**self.parts, "attn_norm": "ln_attn", "ffn_norm": "ln_mlp"}
        elif self.is_parallel:
            self.parts = {**self.parts, "ffn_norm": ""}

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        """Slopes are added before scores are scaled."""
        return {"slopes": tuple(self.scale * slope for slope in alibi_slopes(self.heads))} if not self.has_rope else {}
