"""PLaMo 3."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder, split
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader


class Plamo3(Decoder):
    """Llama with norms before and after each branch and of q and k, to whose weights something is added.

    Layers with a window have frequencies of their own; what is stored as one matrix is split (Preferred Networks 2025).
    """

    architectures = ("Plamo3ForCausalLM",)
    model_types = ("plamo3",)
    defaults = {"head_dim": 128, "tie_word_embeddings": True}
    layers_name = "model.layers.layers"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        windows = config.values.get("sliding_window")
        one = {"sliding_window": next(filter(None, windows), None)} if isinstance(windows, list) else {}
        super().__init__(ConfigReader({**config.values, **one}, config.fail), max_model_len)
        if isinstance(windows, list) and [bool(w) for w in windows[: self.layers]] != [not full for full in self.full]:
            raise config.fail(
                "sliding_window", "must have a number for each of layer_types with a window, and no other"
            )
        if isinstance(windows, list) and len({w for w in windows if w}) > 1:
            raise config.fail("sliding_window", "must be the same for all layers that have one")
        local = self.rope(for_layers(self.config, "sliding_attention", self.config.number("rope_local_theta", 10000.0)))
        self.ropes = [self.ropes[i] if self.full[i] else local for i in range(self.layers)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("sliding_window_pattern", 8) == 0

    def norm(self, g: Graph, x: Node, name: str, offset: float = 1.0) -> Node:
        return g.rms_norm(x, name, self.eps, offset=offset)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.attention(g, self.norm(g, x, f"{at}.pre_mixer_norm"), i, f"{at}.mixer")
        x = g.add(x, self.norm(g, h, f"{at}.post_mixer_norm", 1 / 5))
        h = self.mlp(g, self.norm(g, x, f"{at}.pre_mlp_norm"), f"{at}.mlp")
        return g.add(x, self.norm(g, h, f"{at}.post_mlp_norm", 5**-1.5))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        width = self.kv_heads * self.head_dim
        return split(g, h, f"{at}.qkv_proj", [self.heads * self.head_dim, width, width])

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        how = {"width": self.head_dim, "offset": 1.0}
        q, k = g.rms_norm(q, f"{at}.q_norm", self.eps, **how), g.rms_norm(k, f"{at}.k_norm", self.eps, **how)
        return super().positions(g, q, k, i, at)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = split(g, h, f"{at}.gate_up_proj", [self.intermediate] * 2)
        return g.linear(g.glu(gate, up, self.activation), f"{at}.down_proj", self.hidden)
