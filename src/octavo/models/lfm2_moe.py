"""LFM2 with experts."""

from __future__ import annotations

from octavo.graph.node import Weight
from octavo.models.lfm2 import GGUF_KEYS, GGUF_LAYER, GGUF_LISTS, GGUF_OUTER, Lfm2
from octavo.models.mixture import Mixture
from octavo.weights.gguf_family import GGUFFamily


class Lfm2Moe(Mixture, Lfm2):
    """LFM2, of which all layers but the first have experts, whose scores are sigmoids (Liquid AI 2025)."""

    architectures = ("Lfm2MoeForCausalLM",)
    model_types = ("lfm2_moe",)
    kind = "hybrid, experts"
    fields = {**Lfm2.fields, "first_k_dense_replace": "num_dense_layers"}
    defaults = {**Lfm2.defaults, "first_k_dense_replace": 2}
    adjusts = False
    moe_name = "feed_forward"
    expert_names = ("w1", "w3", "w2")
    choice_bias = "expert_bias"
    score = "sigmoid"
    gguf = (
        GGUFFamily(
            "lfm2moe",
            "Lfm2MoeForCausalLM",
            outer=GGUF_OUTER,
            layer=GGUF_LAYER
            | {
                "ffn_gate_inp": "feed_forward.gate",
                "ffn_gate_exps": "feed_forward.experts.w1",
                "ffn_up_exps": "feed_forward.experts.w3",
                "ffn_down_exps": "feed_forward.experts.w2",
                "exp_probs_b.bias": "feed_forward.expert_bias",
            },
            keys=GGUF_KEYS,
            lists=GGUF_LISTS,
        ),
    )

    def added(self, at: str) -> Weight | None:
        return super().added(at) if self.config.flag("use_expert_bias", True) else None
