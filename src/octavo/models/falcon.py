"""Falcon 7B, 11B, 40B, 180B and RW. Falcon 3 is a Llama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.graph.ops.rope import RopeTable
from octavo.models.alibi import alibi_slopes
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import OUTER, GGUFFamily, Order, grouped_row_order


def row_order(config: Mapping[str, Any]) -> Order:
    kv_heads, head_dim = config["num_key_value_heads"], config["head_dim"]
    return grouped_row_order(kv_heads, (config["num_attention_heads"] // kv_heads * head_dim, head_dim, head_dim))


class Falcon(Decoder):
    """Attention and MLP side by side, of one norm or of two; no gate; few KV heads (Almazrouei et al. 2023).

    RW has slopes (ALiBi) in place of rotary positions, and its branches behind each other.
    """

    architectures = ("FalconForCausalLM", "RWForCausalLM")
    model_types = ("falcon",)
    fields = {
        "num_key_value_heads": "num_kv_heads",
        "intermediate_size": "ffn_hidden_size",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation",
        "attention_bias": "bias",
        "mlp_bias": "bias",
    }
    defaults = {"hidden_act": "gelu", "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    mlp_factor = 4
    embed_name = "transformer.word_embeddings"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    gguf = (
        GGUFFamily(
            "falcon",
            "FalconForCausalLM",
            outer=dict(zip(OUTER, (embed_name, norm_name, "lm_head"), strict=True)),
            layer={
                "attn_norm": "input_layernorm",
                "attn_qkv": "self_attention.query_key_value",
                "attn_output": "self_attention.dense",
                "ffn_up": "mlp.dense_h_to_4h",
                "ffn_down": "mlp.dense_4h_to_h",
            },
            layers=layers_name,
            values={"hidden_act": "gelu", "multi_query": False},
            row_orders={"attn_qkv": row_order},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        is_new = config.flag("new_decoder_architecture")
        one = {"num_kv_heads": 1} if config.flag("multi_query", True) and not is_new else {}  # whatever else it says
        self.has_slopes = config.flag("alibi")
        super().__init__(ConfigReader({**config.values, **one}, config.fail), max_model_len)
        self.is_parallel = is_new or config.flag("parallel_attn", True)
        self.num_norms = config.integer("num_ln_in_parallel_attn", 2 if is_new else 1)

    def rope(self, config: ConfigReader) -> RopeTable | None:
        return None if self.has_slopes else super().rope(config)

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        """Slopes are added before scores are scaled."""
        return {"slopes": tuple(self.scale * slope for slope in alibi_slopes(self.heads))} if self.has_slopes else {}

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        if self.is_parallel and self.num_norms == 2:
            first, second = (self.norm(g, x, f"{at}.{name}") for name in ("ln_attn", "ln_mlp"))
        else:
            first = second = self.norm(g, x, f"{at}.input_layernorm")
        x = g.add(x, self.attention(g, first, i, f"{at}.self_attention"))
        if not self.is_parallel:
            second = self.norm(g, x, f"{at}.post_attention_layernorm")
        return g.add(x, self.mlp(g, second, f"{at}.mlp"))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        kv = self.kv_heads * self.head_dim
        sizes = [self.heads * self.head_dim, kv, kv]
        return split(g, h, f"{at}.query_key_value", sizes, bias=self.qkv_bias, groups=self.kv_heads)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.dense", self.hidden, self.o_bias)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(g.linear(h, f"{at}.dense_h_to_4h", self.intermediate, self.mlp_bias), self.activation)
        return g.linear(h, f"{at}.dense_4h_to_h", self.hidden, self.mlp_bias)
