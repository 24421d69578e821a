"""DeepSeek-MoE 16B."""

from __future__ import annotations

from octavo.models.mixture import Mixture
from octavo.weights.gguf_family import GGUFFamily


class Deepseek(Mixture):
    """Llama with many small experts and some that all tokens ask (Dai et al. 2024)."""

    architectures = ("DeepseekForCausalLM",)
    fields = {"num_experts": "n_routed_experts"}
    normalises = False
    gguf = tuple(GGUFFamily(name, permuted=True) for name in ("deepseek", "bailingmoe"))  # the latter is Ling's first

    def is_sparse(self, i: int) -> bool:
        return super().is_sparse(i) and i % self.config.integer("moe_layer_freq", 1) == 0
