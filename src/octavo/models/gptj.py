"""GPT-J 6B and its descendants."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.models.gpt2 import FIELDS
from octavo.weights.config_reader import ConfigReader


class GPTJ(Decoder):
    """Attention and MLP side by side, of one layer norm; no gate; neighbouring pairs of a part of a head are rotated.

    Source: Wang and Komatsuzaki 2021.
    """

    architectures = ("GPTJForCausalLM",)
    model_types = ("gptj",)
    fields = FIELDS
    defaults = {"hidden_act": "gelu_new", "rms_norm_eps": 1e-5}
    mlp_factor = 4
    interleaved = True
    embed_name = "transformer.wte"
    layers_name = "transformer.h"
    norm_name = "transformer.ln_f"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.head_bias = True

    @property
    def rotary_part(self) -> float | None:  # type: ignore[override]
        return self.config.integer("rotary_dim", self.head_dim, high=self.head_dim) / self.head_dim

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.norm(g, x, f"{at}.ln_1")
        x = g.add(x, self.attention(g, h, i, f"{at}.attn"))
        return g.add(x, self.mlp(g, h, f"{at}.mlp"))

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.out_proj", self.hidden)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        h = g.activation(g.linear(h, f"{at}.fc_in", self.intermediate, True), self.activation)
        return g.linear(h, f"{at}.fc_out", self.hidden, True)
