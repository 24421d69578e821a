"""LFM2."""

from __future__ import annotations

from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import split
from octavo.models.hybrid import Hybrid
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

GGUF_OUTER = {"token_embd": "model.embed_tokens", "token_embd_norm": "model.embedding_norm", "output": "lm_head"}
GGUF_KEYS = {"shortconv.l_cache": "conv_L_cache"}
GGUF_LISTS = {"attention.head_count_kv": "kv_heads_of_layers"}
GGUF_LAYER = {
    "attn_norm": "operator_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.conv": "conv.conv",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}


class Lfm2(Hybrid):
    """Gated convolutions over three tokens in most layers, attention in the others (Liquid AI 2025)."""

    architectures = ("Lfm2ForCausalLM",)
    model_types = ("lfm2",)
    kinds = ("full_attention", "conv")
    fields = {"rms_norm_eps": "norm_eps", "tie_word_embeddings": "tie_embedding", "intermediate_size": "block_ff_dim"}
    defaults = {"tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 128000}
    norm_name = "model.embedding_norm"
    adjusts: ClassVar[bool] = True  # the size of MLPs, where the configuration does not say it
    gguf = (
        GGUFFamily(
            "lfm2",
            "Lfm2ForCausalLM",
            outer=GGUF_OUTER,
            layer=GGUF_LAYER,
            keys=GGUF_KEYS,
            lists=GGUF_LISTS,
            values={"block_auto_adjust_ff_dim": False},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.kernel = config.integer("conv_L_cache", 3, low=2, high=64)
        self.conv_bias = config.flag("conv_bias")
        if config.flag("block_auto_adjust_ff_dim", self.adjusts):
            multiple = config.integer("block_multiple_of", 256)
            size = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * self.intermediate / 3))
            self.intermediate = -(-size // multiple) * multiple

    def is_full(self, i: int) -> bool:
        if by_layer := self.config.integers("kv_heads_of_layers", count=self.layers):
            return by_layer[i] > 0
        indices = self.config.values.get("full_attn_idxs")
        return indices is None or i in self.config.integers("full_attn_idxs")

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.norm(g, x, f"{at}.operator_norm")
        mix = self.attention(g, h, i, f"{at}.self_attn") if self.full[i] else self.mixer(g, h, i, f"{at}.conv")
        x = g.add(x, mix)
        return g.add(x, self.feed_forward(g, self.norm(g, x, f"{at}.ffn_norm"), i, at))

    def feed_forward(self, g: Graph, h: Node, i: int, at: str) -> Node:
        return self.mlp(g, h, f"{at}.feed_forward")

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q = g.rms_norm(q, f"{at}.q_layernorm", self.eps, width=self.head_dim)
        k = g.rms_norm(k, f"{at}.k_layernorm", self.eps, width=self.head_dim)
        return super().positions(g, q, k, i, at)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.out_proj", self.hidden)

    def mixer(self, g: Graph, h: Node, i: int, at: str) -> Node:
        before, behind, x = split(g, h, f"{at}.in_proj", [self.hidden] * 3, bias=self.conv_bias)
        x = g.glu(before, x, "none")
        x = g.causal_conv(x, f"{at}.conv", self.kernel, self.places[i], bias=self.conv_bias)
        return g.linear(g.glu(behind, x, "none"), f"{at}.out_proj", self.hidden, self.conv_bias)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = (g.linear(h, f"{at}.{name}", self.intermediate) for name in ("w1", "w3"))
        return g.linear(g.glu(gate, up), f"{at}.w2", self.hidden)
