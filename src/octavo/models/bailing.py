"""Ling and Ring, of both versions, whose architecture is called Bailing."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class BailingMoe(Mixture):
    """Llama whose q, k and v are stored as one, with DeepSeek-MoE's experts (Ling Team 2025)."""

    architectures: ClassVar[tuple[str, ...]] = ("BailingMoeForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("bailing_moe",)
    fields = {
        "attention_bias": "use_qkv_bias",
        "attention_out_bias": "use_bias",
        "n_shared_experts": "num_shared_experts",
        "scoring_func": "score_function",
        "has_head_norms": "use_qk_norm",
    }
    defaults = {"attention_out_bias": False, "has_head_norms": False}
    embed_name = "model.word_embeddings"
    names = {
        "attention": "attention",
        "attn_qkv": "query_key_value",
        "attn_q_norm": "query_layernorm",
        "attn_k_norm": "key_layernorm",
        "attn_output": "dense",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        if self.config.flag("norm_head"):
            raise self.config.fail("norm_head", "a normalised matrix of logits is not supported in this architecture")


class BailingMoeV2(BailingMoe):
    """The same with norms of the heads of q and k, half of each rotated, and DeepSeek-V3's experts."""

    architectures = ("BailingMoeV2ForCausalLM",)
    model_types = ("bailing_moe_v2",)
    defaults = {"attention_out_bias": False, "has_head_norms": True}
    rotary_part = 1.0
    score = "sigmoid"
    choice_bias = "gate.expert_bias"
    gguf = (GGUFFamily("bailingmoe2"),)
