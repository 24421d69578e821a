"""BLOOM and BLOOMZ in all sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.graph.ops.rope import RopeTable
from octavo.models.alibi import alibi_slopes
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily, Order, grouped_row_order


def row_order(config: Mapping[str, Any]) -> Order:
    return grouped_row_order(config["num_attention_heads"], (config["head_dim"],) * 3)


class Bloom(Decoder):
    """Positions by slopes (ALiBi), layer norms, also of embeddings, biases everywhere (BigScience 2022)."""

    architectures = ("BloomForCausalLM", "BloomModel")
    model_types = ("bloom",)
    fields = {
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "rms_norm_eps": "layer_norm_epsilon",
        "max_position_embeddings": "seq_length",
    }
    defaults = {"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    mlp_factor = 4
    embed_name = "transformer.word_embeddings"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    gguf = (
        GGUFFamily(
            "bloom",
            "BloomForCausalLM",
            outer={
                "token_embd": embed_name,
                "token_embd_norm": f"{embed_name}_layernorm",
                "output_norm": norm_name,
                "output": "lm_head",
            },
            layer={
                "attn_norm": "input_layernorm",
                "attn_qkv": "self_attention.query_key_value",
                "attn_output": "self_attention.dense",
                "ffn_norm": "post_attention_layernorm",
                "ffn_up": "mlp.dense_h_to_4h",
                "ffn_down": "mlp.dense_4h_to_h",
            },
            layers=layers_name,
            values={"hidden_act": "gelu_pytorch_tanh"},
            row_orders={"attn_qkv": row_order},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if config.values.get("n_embed") is not None:
            config = ConfigReader({**config.values, "hidden_size": config.values["n_embed"]}, config.fail)
        super().__init__(config, max_model_len)
        self.is_post_norm = self.config.flag("apply_residual_connection_post_layernorm")

    def rope(self, config: ConfigReader) -> RopeTable | None:
        return None

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"slopes": alibi_slopes(self.heads)}

    def embed(self, g: Graph) -> Node:
        return self.norm(g, super().embed(g), f"{self.embed_name}_layernorm")

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.norm(g, x, f"{at}.input_layernorm")
        x = g.add(h if self.is_post_norm else x, self.attention(g, h, i, f"{at}.self_attention"))
        h = self.norm(g, x, f"{at}.post_attention_layernorm")
        return g.add(h if self.is_post_norm else x, self.mlp(g, h, f"{at}.mlp"))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        return split(g, h, f"{at}.query_key_value", [self.hidden] * 3, bias=True, groups=self.heads)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.dense", self.hidden, True)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(g.linear(h, f"{at}.dense_h_to_4h", self.intermediate, True), self.activation)
        return g.linear(h, f"{at}.dense_4h_to_h", self.hidden, True)
