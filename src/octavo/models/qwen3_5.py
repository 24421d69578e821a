"""Qwen3.5 and 3.6, dense and with experts: the models of text, and the text part of those that see."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.decoder import HEAD_NORMS, split
from octavo.models.hybrid import GatedDeltaNet
from octavo.models.qwen2_moe import SparseLayers
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

GGUF_LAYER = {"post_attention_norm": "post_attention_layernorm"}
GATES = {"ssm_alpha": "linear_attn.in_proj_a", "ssm_beta": "linear_attn.in_proj_b"}
KEYS = {"rope.dimension_sections": "mrope_section"}
VALUES = {"tiled_value_heads": True}


class Qwen3_5(GatedDeltaNet):  # noqa: N801  (its own name)
    """Gated delta rules, and in every fourth layer attention with a gate for each column (Qwen Team 2026)."""

    architectures = ("Qwen3_5ForCausalLM",)
    model_types = ("qwen3_5_text",)
    rotary_part = 0.25
    defaults = {
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "max_position_embeddings": 32768,
    }
    names = HEAD_NORMS
    norm_offset = 1.0
    gguf = (GGUFFamily("qwen35", layer=GGUF_LAYER | GATES, keys=KEYS, values=VALUES),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        if not self.config.flag("attn_output_gate", True):
            raise self.config.fail("attn_output_gate", "false is not supported in this architecture")

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        columns, kv_columns = self.heads * self.head_dim, self.kv_heads * self.head_dim
        q, gate = split(g, h, f"{at}.q_proj", [columns] * 2, bias=self.qkv_bias, groups=self.heads)
        k, v = (g.linear(h, f"{at}.{name}", kv_columns, self.qkv_bias) for name in ("k_proj", "v_proj"))
        q, k = self.positions(g, q, k, i, at)
        h = g.attention(q, k, v, layer=self.places[i], head_dim=self.head_dim, scale=self.scale)
        return self.project(g, g.glu(gate, h, "sigmoid"), at)

    def mixer(self, g: Graph, h: Node, i: int, at: str) -> Node:
        qkv = split(g, h, f"{at}.in_proj_qkv", self.delta_sizes)
        z = g.linear(h, f"{at}.in_proj_z", self.delta_sizes[2])
        b, a = (g.linear(h, f"{at}.in_proj_{name}", self.value_heads) for name in ("b", "a"))
        return self.delta(g, qkv, a, b, z, i, at)


class Qwen3_5Moe(SparseLayers, Qwen3_5):  # noqa: N801  (its own name)
    """The same with experts, and one for all tokens that has a gate."""

    architectures = ("Qwen3_5MoeForCausalLM",)
    model_types = ("qwen3_5_moe_text",)
    kind = "hybrid, experts"
    shared_name = "mlp.shared_expert"
    normalises = True
    defaults = {**Qwen3_5.defaults, "intermediate_size": 5632}
    gguf = (GGUFFamily("qwen35moe", layer=GGUF_LAYER | GATES, keys=KEYS, values=VALUES),)

    def shared(self, g: Graph, h: Node, at: str) -> Node:
        return g.glu(g.linear(h, f"{at}_gate", 1), super().shared(g, h, at), "sigmoid")
