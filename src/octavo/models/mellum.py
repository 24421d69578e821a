"""Mellum 2."""

from __future__ import annotations

from octavo.models.mixture import Mixture
from octavo.models.qwen3 import Qwen3
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Mellum(Mixture, Qwen3):
    """Qwen3 with experts, and windows in layers that have frequencies of their own (JetBrains 2026)."""

    architectures = ("MellumForCausalLM",)
    model_types = ("mellum",)
    fields = {"num_experts": "num_local_experts"}
    defaults = {"head_dim": 128, "sliding_window": 1024, "use_sliding_window": True}
    gguf = (
        GGUFFamily(
            "mellum",
            keys={"rope.freq_base_swa": "rope_local_base_freq"},
            required=("attention.sliding_window_pattern",),
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        theta = self.config.values.get("rope_local_base_freq", self.config.values.get("rope_theta"))  # of GGUF files
        local = self.rope(for_layers(self.config, "sliding_attention", theta))
        self.ropes = [rope if full else local for full, rope in zip(self.full, self.ropes, strict=True)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("sliding_window_pattern", 1) == 0
