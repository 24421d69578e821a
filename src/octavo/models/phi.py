"""Phi-1, Phi-1.5 and Phi-2."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import LAYER, OUTER, GGUFFamily

NAMES = {"attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}


class Phi(Decoder):
    """Attention and MLP side by side, of one layer norm; no gate; biases everywhere (Li et al. 2023)."""

    architectures = ("PhiForCausalLM",)
    model_types = ("phi",)
    fields = {"rms_norm_eps": "layer_norm_eps"}
    defaults = {"attention_bias": True, "hidden_act": "gelu_new", "rms_norm_eps": 1e-5}
    rotary_part = 0.5
    norm_name = "model.final_layernorm"
    gguf = (
        GGUFFamily(
            "phi2",
            "PhiForCausalLM",
            outer=OUTER | {"output_norm": norm_name},
            layer={name: ours for name, ours in LAYER.items() if name not in ("ffn_norm", "ffn_gate")} | NAMES,
            values={"hidden_act": "gelu_new"},
            partial_rope=True,
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.head_bias = True
        if self.config.flag("qk_layernorm"):
            raise self.config.fail("qk_layernorm", "norms of q and k are not supported in this architecture")

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.norm(g, x, f"{at}.input_layernorm")
        x = g.add(x, self.attention(g, h, i, f"{at}.self_attn"))
        return g.add(x, self.mlp(g, h, f"{at}.mlp"))

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.dense", self.hidden, True)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(g.linear(h, f"{at}.fc1", self.intermediate, True), self.activation)
        return g.linear(h, f"{at}.fc2", self.hidden, True)
