"""dots.llm1."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.mixture import Mixture
from octavo.weights.gguf_family import CHOICE_BIAS, EXPERTS, HEAD_NORMS, LAYER, SHARED, GGUFFamily


class Dots1(Mixture):
    """Llama with an RMS norm of every head of q and k, and DeepSeek-V3's experts (rednote-hilab 2025)."""

    architectures = ("Dots1ForCausalLM",)
    model_types = ("dots1",)
    fields = {"num_experts": "n_routed_experts"}
    score = "sigmoid"
    normalises = False
    choice_bias = "gate.e_score_correction_bias"
    gguf = (GGUFFamily("dots1", "Dots1ForCausalLM", layer=LAYER | HEAD_NORMS | EXPERTS | SHARED | CHOICE_BIAS),)

    def is_full(self, i: int) -> bool:
        return i < self.config.integer("max_window_layers", self.layers, low=0)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q, k = self.head_norms(g, q, k, at)
        return super().positions(g, q, k, i, at)
