"""Granite 3, PowerLM's dense ones, and, in GGUF files, MiniCPM."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

KEYS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
FACTORS = ("embedding_scale", "residual_scale", "logit_scale")  # which older files of MiniCPM mean, and do not say


class Granite(Decoder):
    """Llama with four factors: of embeddings, scores, branches, and, as a divisor, logits (Granite Team 2024)."""

    architectures: ClassVar[tuple[str, ...]] = ("GraniteForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("granite",)
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily("granite", keys=KEYS, permuted=True),
        GGUFFamily("minicpm", keys=KEYS, required=FACTORS, permuted=True),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.embedding_scale = config.number("embedding_multiplier", 1.0)
        self.residual_scale = config.number("residual_multiplier", 1.0)
        is_gguf = "attention_multiplier" not in config.values
        self.scale = self.scale if is_gguf else config.number("attention_multiplier")
        self.logits_scale = 1 / config.number("logits_scaling", 1.0)
