"""HyperCLOVA X SEED."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.granite import Granite
from octavo.weights.config_reader import ConfigReader


class HyperClovaX(Granite):
    """Granite with norms behind the branches, too; logits are multiplied, not divided (Naver Cloud 2025)."""

    architectures = ("HyperCLOVAXForCausalLM",)
    model_types = ("hyperclovax",)
    gguf = ()

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.logits_scale = self.config.number("logits_scaling", 1.0)
        self.has_post_norms = self.config.flag("use_post_norm", True)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attn")
        x = g.add(x, g.scale(self.post_norm(g, h, f"{at}.post_norm1"), self.residual_scale))
        h = self.mlp(g, self.norm(g, x, f"{at}.post_attention_layernorm"), f"{at}.mlp")
        return g.add(x, g.scale(self.post_norm(g, h, f"{at}.post_norm2"), self.residual_scale))

    def post_norm(self, g: Graph, h: Node, name: str) -> Node:
        return self.norm(g, h, name) if self.has_post_norms else h
