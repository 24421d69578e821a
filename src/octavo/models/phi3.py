"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder, split
from octavo.weights.gguf_family import LAYER, GGUFFamily

FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}


class Phi3(Decoder):
    """Llama whose matrices of q, k and v are stored as one, and those of gate and up (Abdin et al. 2024)."""

    architectures = ("Phi3ForCausalLM",)
    model_types = ("phi3",)
    defaults = {"rms_norm_eps": 1e-5}
    rotary_part = 1.0
    gguf = (GGUFFamily("phi3", "Phi3ForCausalLM", layer=LAYER | FUSED, partial_rope=True),)

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        kv = self.kv_heads * self.head_dim
        return split(g, h, f"{at}.qkv_proj", [self.heads * self.head_dim, kv, kv], bias=self.qkv_bias)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = split(g, h, f"{at}.gate_up_proj", [self.intermediate] * 2)
        return g.linear(g.glu(gate, up, self.activation), f"{at}.down_proj", self.hidden)
