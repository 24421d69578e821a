"""InternLM 1, 2, 2.5 and 3."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder, split


class InternLM(Decoder):
    """Llama with biases on q, k, v and o."""

    architectures = ("InternLMForCausalLM",)
    fields = {"attention_bias": "bias"}
    defaults = {"attention_bias": True}


class InternLM2(Decoder):
    """Llama with names of its own; the matrices of q, k and v are stored by KV heads (Cai et al. 2024).

    GGUF files of it have Llama's own form.
    """

    architectures = ("InternLM2ForCausalLM",)
    model_types = ("internlm2",)
    fields = {"attention_bias": "bias"}
    embed_name = "model.tok_embeddings"
    head_name = "output"

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.attention_norm"), i, f"{at}.attention"))
        return g.add(x, self.mlp(g, self.norm(g, x, f"{at}.ffn_norm"), f"{at}.feed_forward"))

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        kv = self.kv_heads * self.head_dim
        sizes = [self.heads * self.head_dim, kv, kv]
        return split(g, h, f"{at}.wqkv", sizes, bias=self.qkv_bias, groups=self.kv_heads)

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.linear(h, f"{at}.wo", self.hidden, self.o_bias)

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        gate, up = (g.linear(h, f"{at}.{name}", self.intermediate) for name in ("w1", "w3"))
        return g.linear(g.glu(gate, up, self.activation), f"{at}.w2", self.hidden)


class InternLM3(Decoder):
    """Llama, whose biases have other names in its configuration."""

    architectures = ("InternLM3ForCausalLM",)
    model_types = ("internlm3",)
    fields = {"attention_bias": "qkv_bias", "mlp_bias": "bias"}
    defaults = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-5}
