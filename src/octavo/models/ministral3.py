"""Ministral 3, and the text part of Mistral 3 models that are made of it."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader


class Ministral3(Decoder):
    """Llama with YaRN; beyond the length it was first trained on, queries grow, which is not supported (Mistral 2025).

    So contexts end there: within them, the factor is 1.
    """

    architectures = ("Ministral3ForCausalLM",)
    model_types = ("ministral3",)
    defaults = {"rms_norm_eps": 1e-5}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        rope = self.config.object("rope_parameters")
        if rope.values.get("llama_4_scaling_beta"):
            original = rope.integer("original_max_position_embeddings", high=1 << 28)
            self.max_positions = self.longest_positions = min(self.max_positions, original)
