"""Hunyuan 0.5B to 7B, the dense ones."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import LAYER, GGUFFamily

NAMES = {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}


class HunYuanDense(Decoder):
    """Llama with an RMS norm of every head of q and k once they are rotated (Tencent Hunyuan Team 2025)."""

    architectures = ("HunYuanDenseV1ForCausalLM",)
    model_types = ("hunyuan_v1_dense",)
    defaults = {"rms_norm_eps": 1e-5}
    gguf = (GGUFFamily("hunyuan-dense", "HunYuanDenseV1ForCausalLM", layer=LAYER | NAMES),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.has_head_norms = self.config.flag("use_qk_norm", True)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q, k = super().positions(g, q, k, i, at)
        if not self.has_head_norms:
            return q, k
        q = g.rms_norm(q, f"{at}.query_layernorm", self.eps, width=self.head_dim)
        return q, g.rms_norm(k, f"{at}.key_layernorm", self.eps, width=self.head_dim)
