"""Phi-3.5-MoE and Phi-mini-MoE."""

from __future__ import annotations

from typing import Any

from octavo.models.mixtral import Mixtral
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class PhiMoE(Mixture):
    """Mixtral with layer norms, biases of attention, and experts chosen by a sparse mixer (Abdin et al. 2024)."""

    architectures = ("PhiMoEForCausalLM", "PhimoeForCausalLM")
    model_types = ("phimoe",)
    fields = {"num_experts": "num_local_experts"}
    defaults = {"rms_norm_eps": 1e-5, "rope_theta": 1e6}
    is_layer_norm = True
    names = Mixtral.names
    gguf = (GGUFFamily("phimoe", values={"lm_head_bias": True}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.head_bias = config.flag("lm_head_bias")

    def routes(self, config: ConfigReader) -> dict[str, Any]:
        """As the model was trained; llama.cpp has a softmax over those that are chosen."""
        if self.top_k != 2:
            raise config.fail("num_experts_per_tok", f"only 2 is supported, got {self.top_k}")
        return {"score": "sparsemixer", "normalise": False, "jitter": config.number("router_jitter_noise", 0.01)}
