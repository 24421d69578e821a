"""EXAONE 4.0: 1.2B and 32B; K-EXAONE."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.decoder import HEAD_NORMS, NORMS_BEHIND, Decoder
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Exaone4(Decoder):
    """Norms behind the branches alone, and of the heads of q and k; only layers with a window have positions.

    Where no layer has a window, all have positions (LG AI Research 2025).
    """

    architectures: ClassVar[tuple[str, ...]] = ("Exaone4ForCausalLM",)
    model_types = ("exaone4",)
    names = HEAD_NORMS | NORMS_BEHIND
    gguf = (GGUFFamily("exaone4"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        has_window = self.config.values.get("sliding_window") is not None
        self.ropes = [None if self.full[i] and has_window else rope for i, rope in enumerate(self.ropes)]

    def is_full(self, i: int) -> bool:
        pattern = self.config.values.get("sliding_window_pattern", 4)
        if isinstance(pattern, str):  # a letter for each layer, again and again: "LLLG"
            return pattern[i % len(pattern)] == "G"
        return (i + 1) % self.config.integer("sliding_window_pattern", 4) == 0


class ExaoneMoe(Mixture, Exaone4):
    """EXAONE 4 with norms before the branches, and DeepSeek-V3's experts (LG AI Research 2026)."""

    architectures = ("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM")
    model_types = ("exaone_moe",)
    fields = {"n_shared_experts": "num_shared_experts"}
    defaults = {"n_shared_experts": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-5}
    names = {name: Decoder.names[name] for name in NORMS_BEHIND}
    score = "sigmoid"
    choice_bias = "e_score_correction_bias"
    gguf = (GGUFFamily("exaone-moe"),)
