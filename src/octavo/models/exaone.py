"""EXAONE 3.0, 3.5 and Deep."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import OUTER, GGUFFamily


class Exaone(Decoder):
    """Llama with names of its own (LG AI Research 2024)."""

    architectures = ("ExaoneForCausalLM",)
    model_types = ("exaone",)
    fields = {
        "num_hidden_layers": "num_layers",
        "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
    }
    embed_name = "transformer.wte"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"
    gguf = (
        GGUFFamily(
            "exaone",
            "ExaoneForCausalLM",
            outer=dict(zip(OUTER, (embed_name, norm_name, "lm_head"), strict=True)),
            layer={
                "attn_norm": "ln_1",
                "attn_q": "attn.attention.q_proj",
                "attn_k": "attn.attention.k_proj",
                "attn_v": "attn.attention.v_proj",
                "attn_output": "attn.attention.out_proj",
                "ffn_norm": "ln_2",
                "ffn_gate": "mlp.c_fc_0",
                "ffn_up": "mlp.c_fc_1",
                "ffn_down": "mlp.c_proj",
            },
            layers=layers_name,
        ),
    )

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.ln_1"), i, f"{at}.attn.attention"))
        return g.add(x, self.mlp(g, self.norm(g, x, f"{at}.ln_2"), f"{at}.mlp"))

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.out_proj", self.hidden)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = (g.linear(h, f"{at}.{name}", self.intermediate) for name in ("c_fc_0", "c_fc_1"))
        return g.linear(g.glu(gate, up, self.activation), f"{at}.c_proj", self.hidden)
