"""MiniMax-M2 and M2.1."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.llama import MIXTRAL
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import HEAD_NORMS, LAYER, GGUFFamily

NAMES = LAYER | HEAD_NORMS | MIXTRAL | {"exp_probs_b.bias": "block_sparse_moe.e_score_correction_bias"}


class MiniMaxM2(Mixture):
    """Mixtral with norms of all of q and all of k, half of each head rotated, and scores by sigmoid (MiniMax 2025)."""

    architectures = ("MiniMaxM2ForCausalLM",)
    model_types = ("minimax_m2",)
    fields = {"num_experts": "num_local_experts"}
    defaults = {"head_dim": 128, "rope_theta": 5e6}
    rotary_part = 1.0
    moe_name = "block_sparse_moe"
    expert_names = ("w1", "w3", "w2")
    score = "sigmoid"
    choice_bias = "e_score_correction_bias"
    gguf = (GGUFFamily("minimax-m2", "MiniMaxM2ForCausalLM", layer=NAMES, partial_rope=True),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if config.values.get("rotary_dim") is not None:
            part = config.integer("rotary_dim") / config.integer("head_dim", 128)
            config = config.renamed({}, {"partial_rotary_factor": part})
        super().__init__(config, max_model_len)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q, k = self.norm(g, q, f"{at}.q_norm"), self.norm(g, k, f"{at}.k_norm")
        return super().positions(g, q, k, i, at)
