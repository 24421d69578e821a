"""Qwen3, its embedders and rerankers, and the text part of Qwen3-VL."""

from __future__ import annotations

from typing import ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.qwen2 import Qwen2
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import HEAD_NORMS, LAYER, GGUFFamily


class Qwen3(Qwen2):
    """Llama with an RMS norm of every head of q and k before they are rotated (Yang et al. 2025)."""

    architectures: ClassVar[tuple[str, ...]] = ("Qwen3ForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("qwen3", "qwen3_vl_text")
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily("qwen3", "Qwen3ForCausalLM", layer=LAYER | HEAD_NORMS),
        GGUFFamily(
            "qwen3vl",
            "Qwen3ForCausalLM",
            layer=LAYER | HEAD_NORMS,
            keys={"rope.dimension_sections": "mrope_section", "n_deepstack_layers": "deepstack_layers"},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.qkv_bias = self.o_bias = self.config.flag("attention_bias")

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        q, k = self.head_norms(g, q, k, at)
        return super().positions(g, q, k, i, at)
