"""Nemotron 4 and Minitron."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.arcee import Arcee
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Nemotron(Arcee):
    """Layer norms by 1 + weight, squared ReLU without a gate, half of each head rotated (Parmar et al. 2024)."""

    architectures = ("NemotronForCausalLM",)
    model_types = ("nemotron",)
    fields = {"rms_norm_eps": "norm_eps"}
    defaults = {"hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    rotary_part = 0.5
    gguf = (
        GGUFFamily(
            "nemotron",
            "NemotronForCausalLM",
            values={"hidden_act": "relu2", "one_is_in_norms": True},
            partial_rope=True,
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.norm_offset = 0.0 if self.config.flag("one_is_in_norms") else 1.0  # GGUF files have 1 + weight

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps, offset=self.norm_offset)
