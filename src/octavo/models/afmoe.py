"""AFMoE: Arcee's Trinity."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import EXPERTS, HEAD_NORMS, LAYER, SHARED, GGUFFamily

NAMES = {
    "ffn_norm": "pre_mlp_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "attn_gate": "self_attn.gate_proj",
    "ffn_gate_inp": "mlp.router.gate",
    "exp_probs_b.bias": "mlp.expert_bias",
}


class Afmoe(Mixture):
    """Norms before and behind branches, gated attention with positions only where there is a window (Arcee AI 2025)."""

    architectures = ("AfmoeForCausalLM",)
    model_types = ("afmoe",)
    fields = {
        "n_shared_experts": "num_shared_experts",
        "first_k_dense_replace": "num_dense_layers",
        "routed_scaling_factor": "route_scale",
    }
    defaults = {"rms_norm_eps": 1e-5, "head_dim": 128, "sliding_window": 1024}
    router_name = "router.gate"
    score = "sigmoid"
    choice_bias = "expert_bias"
    gguf = (
        GGUFFamily(
            "afmoe",
            "AfmoeForCausalLM",
            layer=LAYER | HEAD_NORMS | EXPERTS | SHARED | NAMES,
            values={"mup_enabled": True},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.embedding_scale = self.hidden**0.5 if self.config.flag("mup_enabled") else 1.0
        self.ropes = [None if full else rope for full, rope in zip(self.full, self.ropes, strict=True)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("global_attn_every_n_layers", 4) == 0

    def embed(self, g: Graph) -> Node:
        x = super().embed(g)
        return x if self.embedding_scale == 1 else g.scale(x, self.embedding_scale)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attn")
        x = g.add(x, self.norm(g, h, f"{at}.post_attention_layernorm"))
        h = self.feed_forward(g, self.norm(g, x, f"{at}.pre_mlp_layernorm"), i, at)
        return g.add(x, self.norm(g, h, f"{at}.post_mlp_layernorm"))

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        q, k, v = self.qkv(g, h, at)
        q, k = self.positions(g, *self.head_norms(g, q, k, at), i, at)
        made = g.attention(q, k, v, layer=i, head_dim=self.head_dim, scale=self.scale, window=self.windows[i])
        gate = g.linear(h, f"{at}.gate_proj", made.columns)
        return self.project(g, g.glu(gate, made, "sigmoid"), at)
