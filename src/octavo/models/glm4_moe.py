"""GLM-4.5, GLM-4.6 and their Air."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import CHOICE_BIAS, EXPERTS, HEAD_NORMS, LAYER, SHARED, GGUFFamily

NAMES = {name: ours for name, ours in LAYER.items() if name != "ffn_norm"} | {
    "post_attention_norm": "post_attention_layernorm"
}


class Glm4Moe(Mixture):
    """Llama with biases on q, k and v, half of each head rotated, and DeepSeek-V3's experts (GLM-4.5 Team 2025)."""

    architectures = ("Glm4MoeForCausalLM",)
    model_types = ("glm4_moe", "glm4v_moe_text")
    fields = {"num_experts": "n_routed_experts"}
    defaults = {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "n_shared_experts": 1}
    rotary_part = 0.5
    score = "sigmoid"
    choice_bias = "gate.e_score_correction_bias"
    gguf = (
        GGUFFamily(
            "glm4moe",
            "Glm4MoeForCausalLM",
            layer=NAMES | HEAD_NORMS | EXPERTS | SHARED | CHOICE_BIAS,
            partial_rope=True,
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.o_bias = False
        self.has_head_norms = self.config.flag("use_qk_norm")

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.has_head_norms:
            q, k = self.head_norms(g, q, k, at)
        return super().positions(g, q, k, i, at)
