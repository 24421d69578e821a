"""Qwen 1."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

GGUF_OUTER = {"token_embd": "transformer.wte", "output_norm": "transformer.ln_f", "output": "lm_head"}
GGUF_LAYER = {
    "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2", "ffn_gate": "mlp.w2", "ffn_up": "mlp.w1", "ffn_down": "mlp.c_proj",
}  # fmt: skip


class Qwen(Decoder):
    """Llama with names of its own, and q, k and v, with biases, stored as one (Bai et al. 2023)."""

    architectures = ("QWenLMHeadModel",)
    fields = {
        "rms_norm_eps": "layer_norm_epsilon",
        "max_position_embeddings": "seq_length",
        "rope_theta": "rotary_emb_base",
    }
    embed_name = "transformer.wte"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    gguf = (GGUFFamily("qwen", "QWenLMHeadModel", outer=GGUF_OUTER, layer=GGUF_LAYER, layers=layers_name),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        both = config.integer("intermediate_size")  # what gate and up have together
        super().__init__(ConfigReader({**config.values, "intermediate_size": both // 2}, config.fail), max_model_len)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.ln_1"), i, f"{at}.attn"))
        return g.add(x, self.mlp(g, self.norm(g, x, f"{at}.ln_2"), f"{at}.mlp"))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        return split(g, h, f"{at}.c_attn", [self.heads * self.head_dim] * 3, bias=True)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.c_proj", self.hidden)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = (g.linear(h, f"{at}.{name}", self.intermediate) for name in ("w2", "w1"))
        return g.linear(g.glu(gate, up), f"{at}.c_proj", self.hidden)
