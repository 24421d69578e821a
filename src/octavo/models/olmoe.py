"""OLMoE and FlexOlmo."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.mixture import Mixture
from octavo.models.olmo2 import Olmo2
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import EXPERTS, HEAD_NORMS, LAYER, GGUFFamily


class Olmoe(Mixture):
    """Llama with norms of all of q and all of k, which may be clipped, and experts (Muennighoff et al. 2024)."""

    architectures = ("OlmoeForCausalLM",)
    model_types = ("olmoe",)
    defaults = {"rms_norm_eps": 1e-5}
    normalises = False
    gguf = (GGUFFamily("olmoe", "OlmoeForCausalLM", layer=LAYER | HEAD_NORMS | EXPERTS),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.limit = self.config.number("clip_qkv") if self.config.values.get("clip_qkv") is not None else None

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        q, k, v = super().qkv(g, h, at)
        q, k = self.norm(g, q, f"{at}.q_norm"), self.norm(g, k, f"{at}.k_norm")
        return (q, k, v) if self.limit is None else [g.clip(x, self.limit) for x in (q, k, v)]


class FlexOlmo(Mixture, Olmo2):
    """OLMo 2 with experts that were trained apart (Shi et al. 2025)."""

    architectures = ("FlexOlmoForCausalLM",)
    model_types = ("flex_olmo",)
    defaults = {"rms_norm_eps": 1e-6}
    normalises = False
