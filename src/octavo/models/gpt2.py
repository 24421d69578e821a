"""GPT-2, DialoGPT, DistilGPT-2, StarCoder and SantaCoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from octavo.graph import Graph, Node
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
POSITIONS = {"position_embd": "transformer.wpe"}  # of GGUF files


class GPT2(Decoder):
    """Learned positions, layer norms, one matrix for q, k and v, an MLP without a gate (Radford et al. 2019).

    Matrices are stored as [inputs, outputs], but in GGUF files.
    """

    architectures = ("GPT2LMHeadModel",)
    model_types = ("gpt2",)
    fields = FIELDS
    defaults: ClassVar[Mapping[str, object]] = {
        "hidden_act": "gelu_new",
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    }
    mlp_factor = 4
    has_rope = False
    is_layer_norm = True
    is_transposed = True
    embed_name = "transformer.wte"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    names = {
        "attn_norm": "ln_1",
        "attention": "attn",
        "attn_qkv": "c_attn",
        "attn_output": "c_proj",
        "ffn_norm": "ln_2",
        "ffn_gate": "",
        "ffn_up": "c_fc",
        "ffn_down": "c_proj",
    }
    gguf = (GGUFFamily("gpt2", outer=POSITIONS, values={"rows_are_outputs": True}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.is_transposed = self.is_transposed and not config.flag("rows_are_outputs")
        self.scale = self.scale if config.flag("scale_attn_weights", True) else 1.0
        self.divides_by_layer = config.flag("scale_attn_by_inverse_layer_idx")
        if config.flag("add_cross_attention"):
            raise config.fail("add_cross_attention", "is not supported: there is no source to look at")

    def embed(self, g: Graph) -> Node:
        return g.add(super().embed(g), g.position_embed("transformer.wpe", self.max_positions, self.hidden))

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"scale": self.scale / (i + 1)} if self.divides_by_layer else {}

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        if not self.is_transposed:
            return super().qkv(g, h, at)
        return split(g, h, f"{at}.c_attn", [self.hidden] * 3, bias=self.qkv_bias, transposed=True)

    def linear(self, g: Graph, x: Node, name: str, columns: int, bias: bool) -> Node:
        if not self.is_transposed:
            return super().linear(g, x, name, columns, bias)
        return split(g, x, name, [columns], bias=bias, transposed=True)[0]


class GPTBigCode(GPT2):
    """StarCoder and SantaCoder: heads share one key and one value; matrices are stored as [outputs, inputs].

    Source: Li et al. 2023.
    """

    architectures = ("GPTBigCodeForCausalLM",)
    model_types = ("gpt_bigcode",)
    defaults = {**GPT2.defaults, "hidden_act": "gelu_pytorch_tanh"}
    is_transposed = False
    qkv_by_heads = True
    gguf = (GGUFFamily("starcoder", outer=POSITIONS),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        kv_heads = 1 if config.flag("multi_query", True) else None
        super().__init__(ConfigReader({**config.values, "num_key_value_heads": kv_heads}, config.fail), max_model_len)
