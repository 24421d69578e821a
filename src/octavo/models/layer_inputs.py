"""Inputs that each layer has of its own, as small Gemmas do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.graph import Graph, Node
from octavo.models.decoder import split
from octavo.models.gemma import dtype_of, rounded
from octavo.weights.config_reader import ConfigReader


class LayerInputs:
    """`size` columns for each layer: a token's row of a table, and a product of its embedding, normed.

    A layer multiplies them with a gate of its stream. Without `hidden_size_per_layer_input` there are none.
    """

    gguf_outer: ClassVar[Mapping[str, str]] = {
        "per_layer_token_embd": "model.embed_tokens_per_layer",
        "per_layer_model_proj": "model.per_layer_model_projection",
        "per_layer_proj_norm": "model.per_layer_projection_norm",
    }
    gguf_layer: ClassVar[Mapping[str, str]] = {
        "inp_gate": "per_layer_input_gate",
        "proj": "per_layer_projection",
        "post_norm": "post_per_layer_input_norm",
    }

    def __init__(self, config: ConfigReader, hidden: int, layers: int, vocab_size: int, eps: float):
        self.config, self.hidden, self.layers, self.eps = config, hidden, layers, eps
        self.size = config.integer("hidden_size_per_layer_input", 256, low=0)
        self.rows = config.integer("vocab_size_per_layer_input", vocab_size)
        self.inputs: list[Node] = []  # of the layers, once they are built
        if self.size and self.rows < vocab_size:
            raise config.fail("vocab_size_per_layer_input", f"must not be less than vocab_size, {vocab_size}")

    def build(self, g: Graph, x: Node) -> None:
        """Adds the inputs of all layers; `x` are the embeddings."""
        if not self.size:
            return
        table = g.embed("model.embed_tokens_per_layer", self.rows, self.layers * self.size)
        factor = rounded(self.size**0.5, dtype_of(self.config))
        self.inputs = []
        for i, part in enumerate(split(g, x, "model.per_layer_model_projection", [self.size] * self.layers)):
            # The product would be divided by √hidden before it is normed.
            part = g.rms_norm(part, "model.per_layer_projection_norm", self.eps * self.hidden)
            of_token = g.scale(g.columns(table, i * self.size, self.size), factor)
            self.inputs.append(g.scale(g.add(part, of_token), 2**-0.5))

    def read(self, g: Graph, x: Node, i: int, at: str, activation: str) -> Node:
        """What layer `i` makes of its own input and of the stream."""
        gate = g.linear(x, f"{at}.per_layer_input_gate", self.size)
        return g.linear(g.glu(gate, self.inputs[i], activation), f"{at}.per_layer_projection", self.hidden)
