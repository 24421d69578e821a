"""OLMo Hybrid."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph import Graph, Node
from octavo.graph.ops.rope import RopeTable
from octavo.models.hybrid import GatedDeltaNet
from octavo.models.olmo2 import Olmo2
from octavo.weights.config_reader import ConfigReader


class OlmoHybrid(GatedDeltaNet):
    """Gated delta rules with norms before their branches; attention as in OLMo 3, with norms behind them."""

    architectures = ("OlmoHybridForCausalLM",)
    model_types = ("olmo_hybrid",)
    names = {**Olmo2.names}
    norms_heads = False
    delta_norm, delta_out = "o_norm", "o_proj"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        key_heads = config.integer("linear_num_key_heads", heads)
        key_dim = config.integer("linear_key_head_dim", int(0.75 * hidden / key_heads))
        defaults = {
            "linear_num_key_heads": key_heads,
            "linear_num_value_heads": heads,
            "linear_key_head_dim": key_dim,
            "linear_value_head_dim": 2 * key_dim,
        }
        super().__init__(config.renamed({}, defaults), max_model_len)
        self.beta_factor = 2.0 if self.config.flag("linear_allow_neg_eigval", True) else 1.0
        self.delta_eps = 1e-5

    def rope(self, config: ConfigReader) -> RopeTable | None:
        rope = config.object("rope_parameters").values
        return None if "rope_theta" in rope and rope["rope_theta"] is None else super().rope(config)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        if self.full[i]:
            return super().layer(g, x, i, at)
        x = g.add(x, self.mix(g, self.norm(g, x, f"{at}.attention_layer_norm"), i, at))
        return g.add(x, self.feed_forward(g, self.norm(g, x, f"{at}.feedforward_layer_norm"), i, at))

    def mixer(self, g: Graph, h: Node, i: int, at: str) -> Node:
        sizes = self.delta_sizes
        qkv = [g.linear(h, f"{at}.{name}_proj", size) for name, size in zip("qkv", sizes, strict=True)]
        a, b = (g.linear(h, f"{at}.{name}_proj", self.value_heads) for name in "ab")
        return self.delta(g, qkv, a, b, g.linear(h, f"{at}.g_proj", sizes[2]), i, at)

    def convolve(self, g: Graph, qkv: Sequence[Node], i: int, at: str) -> Sequence[Node]:
        how = {"activation": self.activation}
        return [
            g.causal_conv(x, f"{at}.{name}_conv1d", self.kernel, self.places[i] + number, **how)
            for number, (name, x) in enumerate(zip("qkv", qkv, strict=True))
        ]
