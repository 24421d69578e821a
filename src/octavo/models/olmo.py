"""OLMo 1."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph import Graph, Node
from octavo.models.decoder import Decoder
from octavo.weights.gguf_family import GGUFFamily

EPS = 1e-5


class Olmo(Decoder):
    """Llama with layer norms that have no weights; q, k and v may be clipped (Groeneveld et al. 2024)."""

    architectures = ("OlmoForCausalLM",)
    model_types = ("olmo",)
    gguf = (GGUFFamily("olmo", keys={"attention.clamp_kqv": "clip_qkv"}, permuted=True),)

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, None, EPS)

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        return self.clipped(g, super().qkv(g, h, at))
