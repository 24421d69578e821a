"""AFM 4.5B of Arcee."""

from __future__ import annotations

from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Arcee(Decoder):
    """Llama with a squared ReLU and no gate (Arcee 2025)."""

    architectures = ("ArceeForCausalLM",)
    model_types = ("arcee",)
    defaults = {"hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily("arcee", "ArceeForCausalLM", values={"hidden_act": "relu2"}, permuted=True),
    )

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(g.linear(h, f"{at}.up_proj", self.intermediate, self.mlp_bias), self.activation)
        return g.linear(h, f"{at}.down_proj", self.hidden, self.mlp_bias)
