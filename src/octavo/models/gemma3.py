"""Gemma 3 in all sizes: the models of text, and the text part of those that see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.gemma2 import NAMES, Gemma2
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import HEAD_NORMS, LAYER, GGUFFamily


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
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily(
            "gemma3",
            "Gemma3ForCausalLM",
            layer=LAYER | HEAD_NORMS | NAMES,
            keys={"rope.freq_base_swa": "rope_local_base_freq", "final_logit_softcapping": "final_logit_softcapping"},
            values={"one_is_in_norms": True, "rope_local_base_freq": 10000.0},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        local = self.rope(for_layers(config, "sliding_attention", config.number("rope_local_base_freq", 10000.0)))
        self.ropes = [self.ropes[i] if self.full[i] else local for i in range(self.layers)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("sliding_window_pattern", 6) == 0

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q, k = self.head_norms(g, q, k, at)
        return super().positions(g, q, k, i, at)

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        how = {"width": self.head_dim, "offset": self.norm_offset}
        return g.rms_norm(q, f"{at}.q_norm", self.eps, **how), g.rms_norm(k, f"{at}.k_norm", self.eps, **how)
