"""K-EXAONE."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.models.exaone4 import Exaone4
from octavo.models.mixture import Mixture
from octavo.weights.gguf_family import EXPERTS, HEAD_NORMS, LAYER, SHARED, GGUFFamily

NAMES = {"exp_probs_b.bias": "mlp.e_score_correction_bias"}


class ExaoneMoe(Mixture, Exaone4):
    """EXAONE 4 with norms before the branches, and DeepSeek-V3's experts (LG AI Research 2026)."""

    architectures = ("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM")
    model_types = ("exaone_moe",)
    fields = {"n_shared_experts": "num_shared_experts"}
    defaults = {"n_shared_experts": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-5}
    score = "sigmoid"
    choice_bias = "e_score_correction_bias"
    gguf = (GGUFFamily("exaone-moe", "ExaoneMoEForCausalLM", layer=LAYER | HEAD_NORMS | EXPERTS | SHARED | NAMES),)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        return Decoder.layer(self, g, x, i, at)
