"""Qwen1.5-MoE and Qwen2-57B-A14B."""

from __future__ import annotations

from octavo.graph import Graph, Node
from octavo.models.mixture import Mixture
from octavo.models.qwen2 import Qwen2
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class SparseLayers(Mixture):
    """Experts in every `decoder_sparse_step`th layer that is not one of `mlp_only_layers`."""

    normalises = False

    def is_sparse(self, i: int) -> bool:
        step = self.config.integer("decoder_sparse_step", 1)
        return i not in self.config.integers("mlp_only_layers") and (i + 1) % step == 0


class Qwen2Moe(SparseLayers, Qwen2):
    """Qwen2 with experts, and one for all tokens that has a gate (Yang et al. 2024)."""

    architectures = ("Qwen2MoeForCausalLM",)
    model_types = ("qwen2_moe",)
    shared_name = "mlp.shared_expert"
    gguf = (GGUFFamily("qwen2moe"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.qkv_bias = self.config.flag("qkv_bias", True)

    def is_full(self, i: int) -> bool:
        return i % 2 == 1 or not super().is_full(i)

    def shared(self, g: Graph, h: Node, at: str) -> Node:
        return g.glu(g.linear(h, f"{at}_gate", 1), super().shared(g, h, at), "sigmoid")
