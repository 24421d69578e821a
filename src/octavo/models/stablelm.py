"""StableLM 3B, Zephyr, 2 1.6B and 2 12B."""

from __future__ import annotations

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import LAYER, GGUFFamily


class StableLM(Decoder):
    """Llama with layer norms and a quarter of each head rotated (Bellagente et al. 2024)."""

    architectures = ("StableLmForCausalLM", "StableLMEpochForCausalLM")
    model_types = ("stablelm",)
    fields = {"attention_bias": "use_qkv_bias", "rms_norm_eps": "layer_norm_eps", "partial_rotary_factor": "rope_pct"}
    defaults = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    rotary_part = 0.25
    gguf = (
        GGUFFamily(
            "stablelm",
            "StableLmForCausalLM",
            layer=LAYER | {f"attn_{part}_norm": f"self_attn.{part}_layernorm.norms" for part in "qk"},
            keys={"use_parallel_residual": "use_parallel_residual"},
            partial_rope=True,
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.o_bias = False
        self.is_parallel = self.config.flag("use_parallel_residual")
        self.has_head_norms = self.config.flag("qk_layernorm")

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, name, self.eps)

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        if not self.is_parallel:
            return super().layer(g, x, i, at)
        h = self.norm(g, x, f"{at}.input_layernorm")
        x = g.add(x, self.attention(g, h, i, f"{at}.self_attn"))
        return g.add(x, self.mlp(g, h, f"{at}.mlp"))

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.has_head_norms:
            q, k = (self.head_norm(g, x, f"{at}.{name}_layernorm.norms") for x, name in ((q, "q"), (k, "k")))
        return super().positions(g, q, k, i, at)

    def head_norm(self, g: Graph, x: Node, name: str) -> Node:
        """With a weight for each column of each head."""
        shape = x.columns // self.head_dim, self.head_dim
        return g.layer_norm(x, name, self.eps, bias=False, width=self.head_dim, shape=shape)
