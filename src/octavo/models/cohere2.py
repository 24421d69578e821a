"""Command R7B and Command A."""

from __future__ import annotations

from typing import ClassVar

from octavo.models.cohere import NAMES, Cohere
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Cohere2(Cohere):
    """Command R with a window in three of four layers; the others have no positions (Cohere 2024)."""

    architectures = ("Cohere2ForCausalLM",)
    model_types = ("cohere2",)
    defaults = {**Cohere.defaults, "sliding_window": 4096, "rope_theta": 10000.0}
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily("cohere2", "Cohere2ForCausalLM", layer=NAMES, keys={"logit_scale": "logit_scale"}),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.ropes = [None if self.full[i] else rope for i, rope in enumerate(self.ropes)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("sliding_window_pattern", 4) == 0
