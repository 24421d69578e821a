"""Persimmon 8B."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import MEGATRON, Decoder


class Persimmon(Decoder):
    """Layer norms, also of every head of q and k; squared ReLU; half of each head rotated (Elsen et al. 2023)."""

    architectures = ("PersimmonForCausalLM",)
    model_types = ("persimmon",)
    fields = {
        "num_key_value_heads": "num_attention_heads",
        "rms_norm_eps": "layer_norm_eps",
        "has_head_norms": "qk_layernorm",
    }
    defaults = {
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "relu2",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 16384,
    }
    rotary_part = 0.5
    is_layer_norm = True
    qkv_by_heads = True
    norm_name = "model.final_layernorm"
    names = MEGATRON | {"attn_q_norm": "q_layernorm", "attn_k_norm": "k_layernorm"}

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        q = g.layer_norm(q, f"{at}.q_layernorm", self.eps, width=self.head_dim)
        return q, g.layer_norm(k, f"{at}.k_layernorm", self.eps, width=self.head_dim)
