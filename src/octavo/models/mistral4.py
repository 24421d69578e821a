"""Mistral 4, and the text part of models that are made of it."""

from __future__ import annotations

from typing import Any, ClassVar

from octavo.graph import Graph, Node
from octavo.models.deepseek_v2 import DeepseekV2
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Mistral4(DeepseekV2):
    """DeepSeek V2 whose queries grow with each length of context that it was first trained on (Mistral 2026)."""

    architectures = ("Mistral4ForCausalLM",)
    model_types = ("mistral4",)
    defaults: ClassVar[dict[str, object]] = {**DeepseekV2.defaults, "norm_topk_prob": True}
    gguf = (
        GGUFFamily(
            "mistral4",
            keys={"attention.temperature_scale": "query_growth", "attention.temperature_length": "query_length"},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        said, growth, length = self.config, "query_growth", "query_length"  # in GGUF files
        if "rope_parameters" in said.values:
            said = said.object("rope_parameters")
            growth, length = "llama_4_scaling_beta", "original_max_position_embeddings"
        self.growth = said.number(growth) if said.values.get(growth) else None
        self.length = said.integer(length, self.max_positions, high=1 << 28)

    def routes(self, config: ConfigReader) -> dict[str, Any]:
        return Mixture.routes(self, config)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.growth is not None:
            q = g.position_scale(q, self.growth, self.length)
        return super().positions(g, q, k, i, at)
