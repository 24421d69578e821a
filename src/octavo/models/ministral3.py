"""Ministral 3, and the text part of Mistral 3 models that are made of it."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Ministral3(Decoder):
    """Llama with YaRN; queries grow with each length of context that it was first trained on (Mistral 2025)."""

    architectures = ("Ministral3ForCausalLM",)
    model_types = ("ministral3",)
    defaults = {"rms_norm_eps": 1e-5}
    gguf = (GGUFFamily("mistral3", keys={"attention.temperature_scale": "query_growth"}, permuted=True),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        rope = self.config.object("rope_parameters" if "rope_parameters" in self.config.values else "rope_scaling")
        said = rope if rope.values.get("llama_4_scaling_beta") else self.config
        field = "query_growth" if said is self.config else "llama_4_scaling_beta"
        self.growth = said.number(field) if said.values.get(field) else None
        if self.growth is not None:
            self.length = rope.integer("original_max_position_embeddings", high=1 << 28)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.growth is not None:
            q = g.position_scale(q, self.growth, self.length)
        return super().positions(g, q, k, i, at)
