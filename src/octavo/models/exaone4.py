"""EXAONE 4.0: 1.2B and 32B."""

from __future__ import annotations

from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import HEAD_NORMS, LAYER, GGUFFamily

NAMES = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}


class Exaone4(Decoder):
    """Norms behind the branches alone, and of the heads of q and k; only layers with a window have positions.

    Where no layer has a window, all have positions (LG AI Research 2025).
    """

    architectures: ClassVar[tuple[str, ...]] = ("Exaone4ForCausalLM",)
    model_types = ("exaone4",)
    gguf = (GGUFFamily("exaone4", "Exaone4ForCausalLM", layer=LAYER | HEAD_NORMS | NAMES),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        has_window = self.config.values.get("sliding_window") is not None
        self.ropes = [None if self.full[i] and has_window else rope for i, rope in enumerate(self.ropes)]

    def is_full(self, i: int) -> bool:
        pattern = self.config.values.get("sliding_window_pattern", 4)
        if isinstance(pattern, str):  # a letter for each layer, again and again: "LLLG"
            return pattern[i % len(pattern)] == "G"
        return (i + 1) % self.config.integer("sliding_window_pattern", 4) == 0

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.norm(g, self.attention(g, x, i, f"{at}.self_attn"), f"{at}.post_attention_layernorm"))
        return g.add(x, self.norm(g, self.feed_forward(g, x, i, at), f"{at}.post_feedforward_layernorm"))

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q, k = self.head_norms(g, q, k, at)
        return super().positions(g, q, k, i, at)
