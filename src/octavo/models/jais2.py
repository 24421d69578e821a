"""Jais 2."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.arcee import Arcee
from octavo.weights.gguf_family import GGUFFamily


class Jais2(Arcee):
    """Llama with layer norms, a squared ReLU without a gate, and biases everywhere (Inception 2025)."""

    architectures = ("Jais2ForCausalLM",)
    model_types = ("jais2",)
    fields = {"rms_norm_eps": "layer_norm_eps"}
    defaults = {"hidden_act": "relu2", "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5}
    gguf = (GGUFFamily("jais2", "Jais2ForCausalLM", values={"hidden_act": "relu2"}),)

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)
