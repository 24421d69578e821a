"""Qwen3-Next."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import split
from octavo.models.qwen3_5 import GGUF_LAYER, Qwen3_5Moe
from octavo.weights.gguf_family import GGUFFamily


class Qwen3Next(Qwen3_5Moe):
    """Qwen3.5 with experts, but what delta rules are made of is stored by heads of keys (Qwen Team 2025)."""

    architectures = ("Qwen3NextForCausalLM",)
    model_types = ("qwen3_next",)
    gguf = (
        GGUFFamily(
            "qwen3next",
            layer=GGUF_LAYER | {"ssm_ba": "linear_attn.in_proj_ba"},
            values={"has_gates_apart": True},
        ),
    )

    def mixer(self, g: Graph, h: Node, i: int, at: str) -> Node:
        _, keys, values = sizes = self.delta_sizes
        if self.config.flag("has_gates_apart"):
            qkv, z = split(g, h, f"{at}.in_proj_qkv", sizes), g.linear(h, f"{at}.in_proj_z", values)
        else:
            *qkv, z = split(g, h, f"{at}.in_proj_qkvz", [keys, keys, values, values], groups=self.key_heads)
        b, a = split(g, h, f"{at}.in_proj_ba", [self.value_heads] * 2, groups=self.key_heads)
        return self.delta(g, qkv, a, b, z, i, at)
