"""Qwen3-Next, and Qwen3.5 and 3.6, which name and store the same otherwise."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import split
from octavo.models.hybrid import GGUF_DELTA, GGUF_KEYS, GGUF_VALUES, GatedDeltaNet
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import HEAD_NORMS, LAYER, GGUFFamily


class Qwen3Next(GatedDeltaNet):
    """Gated delta rules, and in every fourth layer attention with a gate for each column (Qwen Team 2025)."""

    architectures = ("Qwen3NextForCausalLM",)
    model_types = ("qwen3_next",)
    rotary_part = 0.25
    defaults = {
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "max_position_embeddings": 32768,
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.norm_offset = 0.0 if self.config.flag("one_is_in_norms") else 1.0

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.rms_norm(x, name, self.eps, offset=self.norm_offset)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.norm(g, x, f"{at}.input_layernorm")
        mix = self.attention(g, h, i, f"{at}.self_attn") if self.full[i] else self.mixer(g, h, i, f"{at}.linear_attn")
        x = g.add(x, mix)
        return g.add(x, self.mlp(g, self.norm(g, x, f"{at}.post_attention_layernorm"), f"{at}.mlp"))

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        columns, kv_columns = self.heads * self.head_dim, self.kv_heads * self.head_dim
        q, gate = split(g, h, f"{at}.q_proj", [columns] * 2, bias=self.qkv_bias, groups=self.heads)
        k, v = (g.linear(h, f"{at}.{name}", kv_columns, self.qkv_bias) for name in ("k_proj", "v_proj"))
        how = {"width": self.head_dim, "offset": self.norm_offset}
        q, k = (g.rms_norm(x, f"{at}.{name}_norm", self.eps, **how) for x, name in ((q, "q"), (k, "k")))
        q, k = self.positions(g, q, k, i, at)
        h = g.attention(q, k, v, layer=self.places[i], head_dim=self.head_dim, scale=self.scale)
        return self.project(g, g.glu(gate, h, "sigmoid"), at)

    def mixer(self, g: Graph, h: Node, i: int, at: str) -> Node:
        _, keys, values = self.delta_sizes
        q, k, v, z = split(g, h, f"{at}.in_proj_qkvz", [keys, keys, values, values], groups=self.key_heads)
        b, a = split(g, h, f"{at}.in_proj_ba", [self.value_heads] * 2, groups=self.key_heads)
        return self.delta(g, (q, k, v), a, b, z, i, at)


class Qwen3_5(Qwen3Next):  # noqa: N801  (its own name)
    """The same in other matrices (Qwen Team 2026)."""

    architectures = ("Qwen3_5ForCausalLM",)
    model_types = ("qwen3_5_text",)
    gguf = (
        GGUFFamily(
            "qwen35",
            "Qwen3_5ForCausalLM",
            layer=LAYER
            | HEAD_NORMS
            | GGUF_DELTA
            | {
                "ssm_alpha": "linear_attn.in_proj_a",
                "ssm_beta": "linear_attn.in_proj_b",
                "post_attention_norm": "post_attention_layernorm",
            },
            keys=GGUF_KEYS | {"rope.dimension_sections": "mrope_section"},
            values=GGUF_VALUES | {"tiled_value_heads": True},
            partial_rope=True,
        ),
    )

    def mixer(self, g: Graph, h: Node, i: int, at: str) -> Node:
        qkv = split(g, h, f"{at}.in_proj_qkv", self.delta_sizes)
        z = g.linear(h, f"{at}.in_proj_z", self.value_heads * self.value_dim)
        b, a = (g.linear(h, f"{at}.in_proj_{name}", self.value_heads) for name in ("b", "a"))
        return self.delta(g, qkv, a, b, z, i, at)
