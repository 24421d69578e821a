"""BLOOM and BLOOMZ in all sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.graph import Graph, Node
from octavo.models.alibi import alibi_slopes
from octavo.models.decoder import MEGATRON, Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


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
    defaults = {
        "hidden_act": "gelu_pytorch_tanh",
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    }
    mlp_factor = 4
    has_rope = False
    is_layer_norm = True
    qkv_by_heads = True
    embed_name = "transformer.word_embeddings"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    names = MEGATRON | {"attention": "self_attention"}
    gguf = (GGUFFamily("bloom", outer={"token_embd_norm": f"{embed_name}_layernorm"}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if config.values.get("n_embed") is not None:
            config = ConfigReader({**config.values, "hidden_size": config.values["n_embed"]}, config.fail)
        super().__init__(config, max_model_len)
        self.is_post_norm = self.config.flag("apply_residual_connection_post_layernorm")

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"slopes": alibi_slopes(self.heads)}

    def embed(self, g: Graph) -> Node:
        return self.norm(g, super().embed(g), f"{self.embed_name}_layernorm")

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.norm(g, x, f"{at}.input_layernorm")
        x = g.add(h if self.is_post_norm else x, self.attention(g, h, i, f"{at}.self_attention"))
        h = self.norm(g, x, f"{at}.post_attention_layernorm")
        return g.add(h if self.is_post_norm else x, self.mlp(g, h, f"{at}.mlp"))
