"""Orion 14B."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily


class Orion(Decoder):
    """Llama with layer norms (Chen et al. 2024)."""

    architectures = ("OrionForCausalLM",)
    model_types = ("orion",)
    defaults = {"rms_norm_eps": 1e-5}
    gguf = (GGUFFamily("orion", "OrionForCausalLM"),)

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)
