"""Tele-FLM 52B and 1T."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.llama import Llama
from octavo.weights.config_reader import ConfigReader


class TeleFLM(Llama):
    """Llama whose embeddings and logits are scaled where `use_mup` says it (Li et al. 2024)."""

    architectures = ("TeleFLMForCausalLM",)
    model_types = ()
    gguf = ()

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.embed_scale = 1.0
        if self.config.flag("use_mup"):
            self.embed_scale = self.config.number("input_mult")
            self.logits_scale = self.config.number("output_mult") / self.config.number("mup_scale_factor")

    def embed(self, g: Graph) -> Node:
        x = super().embed(g)
        return x if self.embed_scale == 1.0 else g.scale(x, self.embed_scale)
