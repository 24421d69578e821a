"""ERNIE 4.5 21B-A3B and 300B-A47B."""

from __future__ import annotations

from octavo.graph import Weight
from octavo.models.ernie4_5 import Ernie45
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Ernie45Moe(Mixture, Ernie45):
    """ERNIE 4.5 with experts, chosen by their probability and a bias (Baidu ERNIE Team 2025)."""

    architectures = ("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM")
    model_types = ("ernie4_5_moe",)
    fields = {
        **Ernie45.fields,
        "num_experts": "moe_num_experts",
        "num_experts_per_tok": "moe_k",
        "n_shared_experts": "moe_num_shared_experts",
        "first_k_dense_replace": "moe_layer_start_index",
    }
    choice_bias = "moe_statics.e_score_correction_bias"
    gguf = (GGUFFamily("ernie4_5-moe", keys={"interleave_moe_layer_step": "moe_layer_interval"}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.head_bias = self.mlp_bias

    def is_sparse(self, i: int) -> bool:
        last = self.config.integer("moe_layer_end_index", -1, low=-1)
        is_one = (i + 1) % self.config.integer("moe_layer_interval", 1) == 0
        return super().is_sparse(i) and is_one and (last < 0 or i <= last)

    def added(self, at: str) -> Weight:
        """It is stored as a matrix of one row, but in GGUF files."""
        return Weight(f"{at}.{self.choice_bias}", (self.num_experts,), expert=0 if self.layout == "apart" else None)
