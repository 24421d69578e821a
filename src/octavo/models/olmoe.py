"""OLMoE and FlexOlmo."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph import Graph, Node
from octavo.models.decoder import HEAD_NORMS
from octavo.models.mixture import Mixture
from octavo.models.olmo2 import Olmo2
from octavo.weights.gguf_family import GGUFFamily


class Olmoe(Mixture):
    """Llama with norms of all of q and all of k, which may be clipped, and experts (Muennighoff et al. 2024)."""

    architectures = ("OlmoeForCausalLM",)
    model_types = ("olmoe",)
    defaults = {"rms_norm_eps": 1e-5}
    normalises = False
    names = HEAD_NORMS
    norms_heads = False
    gguf = (GGUFFamily("olmoe"),)

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        q, k, v = super().qkv(g, h, at)
        return q, k, *self.clipped(g, [v])

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        """These are clipped behind their norms."""
        q, k = self.clipped(g, super().head_norms(g, q, k, at))
        return q, k


class FlexOlmo(Mixture, Olmo2):
    """OLMo 2 with experts that were trained apart (Shi et al. 2025)."""

    architectures = ("FlexOlmoForCausalLM",)
    model_types = ("flex_olmo",)
    defaults = {"rms_norm_eps": 1e-6}
    normalises = False
