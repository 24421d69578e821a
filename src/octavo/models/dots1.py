"""dots.llm1."""

from __future__ import annotations

from octavo.models.decoder import HEAD_NORMS
from octavo.models.mixture import Mixture
from octavo.weights.gguf_family import GGUFFamily


class Dots1(Mixture):
    """Llama with an RMS norm of every head of q and k, and DeepSeek-V3's experts (rednote-hilab 2025)."""

    architectures = ("Dots1ForCausalLM",)
    model_types = ("dots1",)
    fields = {"num_experts": "n_routed_experts"}
    names = HEAD_NORMS
    score = "sigmoid"
    normalises = False
    choice_bias = "gate.e_score_correction_bias"
    gguf = (GGUFFamily("dots1"),)

    def is_full(self, i: int) -> bool:
        return i < self.config.integer("max_window_layers", self.layers, low=0)
