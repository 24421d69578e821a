"""Command R, Command R+ and Aya 23."""

from __future__ import annotations

from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import HEAD_NORMS, LAYER, GGUFFamily

NAMES = {name: ours for name, ours in LAYER.items() if name != "ffn_norm"}


class Cohere(Decoder):
    """Attention and MLP side by side, of one layer norm without bias; neighbouring pairs are rotated (Cohere 2024)."""

    architectures = ("CohereForCausalLM",)
    model_types = ("cohere",)
    fields = {"rms_norm_eps": "layer_norm_eps"}
    defaults = {
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    }
    interleaved = True
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily("command-r", "CohereForCausalLM", layer=NAMES | HEAD_NORMS, keys={"logit_scale": "logit_scale"}),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.logits_scale = self.config.number("logit_scale", 0.0625)
        self.has_head_norms = self.config.flag("use_qk_norm")

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps, bias=False)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.norm(g, x, f"{at}.input_layernorm")
        x = g.add(x, self.attention(g, h, i, f"{at}.self_attn"))
        return g.add(x, self.feed_forward(g, h, i, at))

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.has_head_norms:
            q, k = self.head_norms(g, q, k, at)
        return super().positions(g, q, k, i, at)

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        """Each head has weights of its own."""
        d = self.head_dim
        q = g.layer_norm(q, f"{at}.q_norm", self.eps, bias=False, width=d, shape=(self.heads, d))
        return q, g.layer_norm(k, f"{at}.k_norm", self.eps, bias=False, width=d, shape=(self.kv_heads, d))
