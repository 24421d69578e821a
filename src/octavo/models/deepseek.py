"""DeepSeek-MoE 16B."""

from __future__ import annotations

from octavo.models.mixture import Mixture
from octavo.weights.gguf_family import EXPERTS, LAYER, SHARED, GGUFFamily


class Deepseek(Mixture):
    """Llama with many small experts and some that all tokens ask (Dai et al. 2024)."""

    architectures = ("DeepseekForCausalLM",)
    fields = {"num_experts": "n_routed_experts"}
    normalises = False
    gguf = tuple(  # in such files, Ling's first version is the same
        GGUFFamily(architecture, "DeepseekForCausalLM", layer=LAYER | EXPERTS | SHARED, permuted=True)
        for architecture in ("deepseek", "bailingmoe")
    )

    def is_sparse(self, i: int) -> bool:
        return super().is_sparse(i) and i % self.config.integer("moe_layer_freq", 1) == 0
