"""Solar Open 100B."""

from __future__ import annotations

from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader


class SolarOpen(Mixture):
    """Llama with DeepSeek-V3's experts (Upstage 2026)."""

    architectures = ("SolarOpenForCausalLM",)
    model_types = ("solar_open",)
    fields = {"num_experts": "n_routed_experts"}
    defaults = {
        "attention_out_bias": False,
        "head_dim": 128,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-5,
        "n_shared_experts": 1,
    }
    score = "sigmoid"
    choice_bias = "gate.e_score_correction_bias"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        no_dense = {"intermediate_size": config.values.get("moe_intermediate_size"), "first_k_dense_replace": 0}
        super().__init__(ConfigReader({**config.values, **no_dense}, config.fail), max_model_len)
