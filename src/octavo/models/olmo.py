"""OLMo 1."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import LAYER, OUTER, GGUFFamily

EPS = 1e-5


class Olmo(Decoder):
    """Llama with layer norms that have no weights; q, k and v may be clipped (Groeneveld et al. 2024)."""

    architectures = ("OlmoForCausalLM",)
    model_types = ("olmo",)
    gguf = (
        GGUFFamily(
            "olmo",
            "OlmoForCausalLM",
            outer={key: name for key, name in OUTER.items() if "norm" not in key},
            layer={key: name for key, name in LAYER.items() if "norm" not in key},
            keys={"attention.clamp_kqv": "clip_qkv"},
            permuted=True,
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.clip = config.number("clip_qkv") if config.values.get("clip_qkv") is not None else None

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.layer_norm(x, None, EPS)

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        nodes = super().qkv(g, h, at)
        return nodes if self.clip is None else [g.clip(node, self.clip) for node in nodes]
