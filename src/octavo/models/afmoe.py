"""AFMoE: Arcee's Trinity."""

from __future__ import annotations

from octavo.models.decoder import HEAD_NORMS
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Afmoe(Mixture):
    """Norms before and behind branches, gated attention with positions only where there is a window (Arcee AI 2025)."""

    architectures = ("AfmoeForCausalLM",)
    model_types = ("afmoe",)
    fields = {
        "n_shared_experts": "num_shared_experts",
        "first_k_dense_replace": "num_dense_layers",
        "routed_scaling_factor": "route_scale",
    }
    defaults = {"rms_norm_eps": 1e-5, "head_dim": 128, "sliding_window": 1024}
    names = HEAD_NORMS | {
        "attn_gate": "gate_proj",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_mlp_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
    }
    router_name = "router.gate"
    score = "sigmoid"
    choice_bias = "expert_bias"
    gguf = (GGUFFamily("afmoe", values={"mup_enabled": True}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.embedding_scale = self.hidden**0.5 if self.config.flag("mup_enabled") else 1.0
        self.ropes = [None if full else rope for full, rope in zip(self.full, self.ropes, strict=True)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("global_attn_every_n_layers", 4) == 0
