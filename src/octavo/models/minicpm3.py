"""MiniCPM 3."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.mla import LatentAttention
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import LATENT, GGUFFamily


class MiniCPM3(LatentAttention):
    """Latent attention, and three factors: of embeddings, of branches, by depth, and of logits, by a base width."""

    architectures = ("MiniCPM3ForCausalLM",)
    model_types = ("minicpm3",)
    defaults = {
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "kv_lora_rank": 256,
    }

    gguf = (GGUFFamily("minicpm3", "MiniCPM3ForCausalLM", layer=LATENT, latent=True),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.embedding_scale = config.number("scale_emb", 12.0)
        self.branch_scale = config.number("scale_depth", 1.4) / self.layers**0.5
        self.logits_scale = config.integer("dim_model_base", 256) / self.hidden

    def embed(self, g: Graph) -> Node:
        return g.scale(super().embed(g), self.embedding_scale)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attn")
        x = g.add(x, g.scale(h, self.branch_scale))
        h = self.mlp(g, self.norm(g, x, f"{at}.post_attention_layernorm"), f"{at}.mlp")
        return g.add(x, g.scale(h, self.branch_scale))
