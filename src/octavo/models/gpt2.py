"""GPT-2, DialoGPT and DistilGPT-2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.graph.ops.rope import RopeTable
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

FIELDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "rms_norm_eps": "layer_norm_epsilon",
}
OUTER = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


class GPT2(Decoder):
    """Learned positions, layer norms, one matrix for q, k and v, an MLP without a gate (Radford et al. 2019).

    Matrices are stored as [inputs, outputs], but in GGUF files.
    """

    architectures = ("GPT2LMHeadModel",)
    model_types = ("gpt2",)
    fields = FIELDS
    defaults = {"hidden_act": "gelu_new", "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    mlp_factor = 4
    embed_name = "transformer.wte"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    is_transposed = True
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily(
            "gpt2",
            "GPT2LMHeadModel",
            outer=OUTER,
            layer=LAYER,
            layers=layers_name,
            values={"hidden_act": "gelu_new", "rows_are_outputs": True},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.is_transposed = self.is_transposed and not config.flag("rows_are_outputs")
        self.scale = self.scale if config.flag("scale_attn_weights", True) else 1.0
        self.divides_by_layer = config.flag("scale_attn_by_inverse_layer_idx")
        if config.flag("add_cross_attention"):
            raise config.fail("add_cross_attention", "is not supported: there is no source to look at")

    def rope(self, config: ConfigReader) -> RopeTable | None:
        return None

    def embed(self, g: Graph) -> Node:
        return g.add(super().embed(g), g.position_embed("transformer.wpe", self.max_positions, self.hidden))

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.ln_1"), i, f"{at}.attn"))
        return g.add(x, self.mlp(g, self.norm(g, x, f"{at}.ln_2"), f"{at}.mlp"))

    def attention(self, g: Graph, h: Node, i: int, at: str) -> Node:
        q, k, v = self.qkv(g, h, at)
        scale = self.scale / (i + 1) if self.divides_by_layer else self.scale
        h = g.attention(q, k, v, layer=i, head_dim=self.head_dim, scale=scale)
        return self.linear(g, h, f"{at}.c_proj", self.hidden)

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        return split(g, h, f"{at}.c_attn", [self.hidden] * 3, bias=True, transposed=self.is_transposed)

    def linear(self, g: Graph, h: Node, name: str, columns: int) -> Node:
        return split(g, h, name, [columns], bias=True, transposed=self.is_transposed)[0]

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(self.linear(g, h, f"{at}.c_fc", self.intermediate), self.activation)
        return self.linear(g, h, f"{at}.c_proj", self.hidden)
