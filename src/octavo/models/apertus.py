"""Apertus 8B and 70B."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.graph.ops.pointwise import Xielu
from octavo.models.decoder import HEAD_NORMS, Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

GGUF_NUMBERS = {f"xielu.{part}": (f"mlp.act_fn.{part}", shape) for part, shape in Xielu.shapes.items()}


class Apertus(Decoder):
    """Llama with an RMS norm of every head of q and k, and an MLP without a gate, of xIELU (Apertus Team 2025)."""

    architectures = ("ApertusForCausalLM",)
    model_types = ("apertus",)
    defaults = {"rms_norm_eps": 1e-5, "rope_theta": 12e6}
    names = HEAD_NORMS | {"attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm", "ffn_gate": ""}
    gguf = (GGUFFamily("apertus", values={"hidden_act": "xielu"}, numbers=GGUF_NUMBERS),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        if config.text("hidden_act", "xielu") != "xielu":
            raise config.fail("hidden_act", f"only xielu is known here, got {config.values['hidden_act']!r}")
        super().__init__(ConfigReader({**config.values, "hidden_act": None}, config.fail), max_model_len)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.xielu(g.linear(h, f"{at}.up_proj", self.intermediate), f"{at}.act_fn")
        return g.linear(h, f"{at}.down_proj", self.hidden)
