"""GLM-4-0414 and GLM-Z1: 9B and 32B."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.glm import Glm
from octavo.weights.gguf_family import LAYER, GGUFFamily

NAMES = {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_up": "mlp.gate_up_proj",
}


class Glm4(Glm):
    """GLM with norms behind each branch, too."""

    architectures = ("Glm4ForCausalLM",)
    model_types = ("glm4",)
    gguf = (GGUFFamily("glm4", "Glm4ForCausalLM", layer=LAYER | NAMES, partial_rope=True),)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        h = self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attn")
        x = g.add(x, self.norm(g, h, f"{at}.post_self_attn_layernorm"))
        h = self.mlp(g, self.norm(g, x, f"{at}.post_attention_layernorm"), f"{at}.mlp")
        return g.add(x, self.norm(g, h, f"{at}.post_mlp_layernorm"))
