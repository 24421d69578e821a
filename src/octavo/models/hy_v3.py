"""Hunyuan 3, also Hy3."""

from __future__ import annotations

from octavo.models.mixture import Mixture
from octavo.models.qwen3 import Qwen3
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class HyV3(Mixture, Qwen3):
    """Llama with an RMS norm of every head of q and k, and experts that are chosen by sigmoids (Tencent 2026)."""

    architectures = ("HYV3ForCausalLM",)
    model_types = ("hy_v3",)
    fields = {"n_shared_experts": "num_shared_experts", "routed_scaling_factor": "router_scaling_factor"}
    defaults = {
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 2.826,
    }
    router_name = "router.gate"
    shared_name = "mlp.shared_mlp"
    score = "sigmoid"
    choice_bias = "expert_bias"
    gguf = (GGUFFamily("hy_v3", layer={"exp_probs_b": "mlp.expert_bias"}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.windows = [None] * self.layers
