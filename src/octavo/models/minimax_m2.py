"""MiniMax-M2 and M2.1."""

from __future__ import annotations

from octavo.models.decoder import HEAD_NORMS
from octavo.models.mixtral import Mixtral
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class MiniMaxM2(Mixture):
    """Mixtral with norms of all of q and all of k, half of each head rotated, and scores by sigmoid (MiniMax 2025)."""

    architectures = ("MiniMaxM2ForCausalLM",)
    model_types = ("minimax_m2",)
    fields = {"num_experts": "num_local_experts"}
    defaults = {"head_dim": 128, "rope_theta": 5e6}
    rotary_part = 1.0
    names = {**Mixtral.names, **HEAD_NORMS}
    norms_heads = False
    score = "sigmoid"
    choice_bias = "e_score_correction_bias"
    gguf = (GGUFFamily("minimax-m2"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if config.values.get("rotary_dim") is not None:
            part = config.integer("rotary_dim") / config.integer("head_dim", 128)
            config = config.renamed({}, {"partial_rotary_factor": part})
        super().__init__(config, max_model_len)
