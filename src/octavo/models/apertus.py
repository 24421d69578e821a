"""Apertus 8B and 70B."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader


class Apertus(Decoder):
    """Llama with an RMS norm of every head of q and k, and an MLP without a gate, of xIELU (Apertus Team 2025)."""

    architectures = ("ApertusForCausalLM",)
    model_types = ("apertus",)
    defaults = {"rms_norm_eps": 1e-5, "rope_theta": 12e6}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if config.text("hidden_act", "xielu") != "xielu":
            raise config.fail("hidden_act", f"only xielu is known here, got {config.values['hidden_act']!r}")
        super().__init__(ConfigReader({**config.values, "hidden_act": None}, config.fail), max_model_len)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.attention_layernorm"), i, f"{at}.self_attn"))
        return g.add(x, self.mlp(g, self.norm(g, x, f"{at}.feedforward_layernorm"), f"{at}.mlp"))

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q, k = self.head_norms(g, q, k, at)
        return super().positions(g, q, k, i, at)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.xielu(g.linear(h, f"{at}.up_proj", self.intermediate), f"{at}.act_fn")
        return g.linear(h, f"{at}.down_proj", self.hidden)
