"""SmolLM3."""

from __future__ import annotations

from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class SmolLM3(Decoder):
    """Llama of whose layers every fourth has no positions (Bakouch et al. 2025)."""

    architectures = ("SmolLM3ForCausalLM",)
    model_types = ("smollm3",)
    defaults = {"tie_word_embeddings": True, "max_position_embeddings": 32768, "rope_theta": 2e6}
    gguf = (GGUFFamily("smollm3", permuted=True),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        if not config.flag("use_sliding_window"):
            self.windows = [None] * self.layers
        every = config.integer("no_rope_layer_interval", 4)
        rotated = config.integers("no_rope_layers", high=1) or [(i + 1) % every for i in range(self.layers)]
        if len(rotated) < self.layers:
            raise config.fail("no_rope_layers", f"must have {self.layers} numbers, got {len(rotated)}")
        self.ropes = [self.ropes[i] if rotated[i] else None for i in range(self.layers)]
