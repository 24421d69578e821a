"""Persimmon 8B."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader


class Persimmon(Decoder):
    """Layer norms, also of every head of q and k; squared ReLU; half of each head rotated (Elsen et al. 2023)."""

    architectures = ("PersimmonForCausalLM",)
    model_types = ("persimmon",)
    fields = {"rms_norm_eps": "layer_norm_eps"}
    defaults = {"hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 16384}
    rotary_part = 0.5
    norm_name = "model.final_layernorm"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.has_head_norms = self.config.flag("qk_layernorm", True)

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        return split(g, h, f"{at}.query_key_value", [self.hidden] * 3, bias=True, groups=self.heads)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.has_head_norms:
            q = g.layer_norm(q, f"{at}.q_layernorm", self.eps, width=self.head_dim)
            k = g.layer_norm(k, f"{at}.k_layernorm", self.eps, width=self.head_dim)
        return super().positions(g, q, k, i, at)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.dense", self.hidden, True)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(g.linear(h, f"{at}.dense_h_to_4h", self.intermediate, True), self.activation)
        return g.linear(h, f"{at}.dense_4h_to_h", self.hidden, True)
