"""StarCoder2."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import LAYER, GGUFFamily

NAMES = {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}


class StarCoder2(Decoder):
    """Llama with layer norms, biases everywhere, and an MLP without a gate (Lozhkov et al. 2024)."""

    architectures = ("Starcoder2ForCausalLM",)
    model_types = ("starcoder2",)
    fields = {"rms_norm_eps": "norm_epsilon", "attention_bias": "use_bias", "mlp_bias": "use_bias"}
    defaults = {
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    }
    gguf = (GGUFFamily("starcoder2", "Starcoder2ForCausalLM", layer=LAYER | NAMES, values={"hidden_act": "gelu_new"}),)

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(g.linear(h, f"{at}.c_fc", self.intermediate, self.mlp_bias), self.activation)
        return g.linear(h, f"{at}.c_proj", self.hidden, self.mlp_bias)
