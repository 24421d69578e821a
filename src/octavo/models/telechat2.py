"""TeleChat 2: 3B to 115B."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader


class TeleChat2(Decoder):
    """Llama with biases behind attention and the MLP alone; k and v are stored as one (TeleAI 2024)."""

    architectures = ("TeleChat2ForCausalLM", "TeleChatForCausalLM", "TelechatForCausalLM")
    model_types = ("telechat",)
    fields = {
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "ffn_hidden_size",
        "rms_norm_eps": "layer_norm_epsilon",
        "max_position_embeddings": "seq_length",
    }
    defaults = {"attention_out_bias": True, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
    embed_name = "transformer.word_embeddings"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    names = {"attention": "self_attention", "attn_output": "dense"}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        if self.config.flag("embed_layernorm"):
            raise self.config.fail("embed_layernorm", "is not supported")

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        width = self.kv_heads * self.head_dim
        q = g.linear(h, f"{at}.query", self.heads * self.head_dim)
        return q, *split(g, h, f"{at}.key_value", [width, width], groups=self.kv_heads)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = (g.linear(h, f"{at}.{name}_proj", self.intermediate) for name in ("gate", "up"))
        return g.linear(g.glu(gate, up, self.activation), f"{at}.down_proj", self.hidden, True)
