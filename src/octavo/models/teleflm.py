"""Tele-FLM 52B and 1T."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader


class TeleFLM(Decoder):
    """Llama whose embeddings and logits are scaled where `use_mup` says it (Li et al. 2024)."""

    architectures = ("TeleFLMForCausalLM",)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        if self.config.flag("use_mup"):
            self.embedding_scale = self.config.number("input_mult")
            self.logits_scale = self.config.number("output_mult") / self.config.number("mup_scale_factor")
