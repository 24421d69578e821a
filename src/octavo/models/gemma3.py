"""Gemma 3 in all sizes: the models of text, and the text part of those that see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.models.decoder import HEAD_NORMS
from octavo.models.gemma2 import Gemma2
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Gemma3(Gemma2):
    """Gemma 2 with norms of q and k, and without caps; of six layers, one looks at everything.

    Those that do not have a window, and frequencies of their own (Gemma Team 2025).
    """

    architectures = ("Gemma3ForCausalLM",)
    model_types = ("gemma3_text",)
    defaults = {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "rope_theta": 1e6,
    }
    caps: ClassVar[Mapping[str, float | None]] = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    layers_of_27b = 62
    names = HEAD_NORMS
    gguf = (
        GGUFFamily(
            "gemma3",
            keys={"rope.freq_base_swa": "rope_local_base_freq", "final_logit_softcapping": "final_logit_softcapping"},
            values={"rope_local_base_freq": 10000.0},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        local = self.rope(for_layers(config, "sliding_attention", config.number("rope_local_base_freq", 10000.0)))
        self.ropes = [self.ropes[i] if self.full[i] else local for i in range(self.layers)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("sliding_window_pattern", 6) == 0
