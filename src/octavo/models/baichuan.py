"""Baichuan 7B. The larger one, and Baichuan 2, need what is not here yet, and are refused."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder, split
from octavo.weights.config_reader import ConfigReader

VOCABULARY_2 = 125696


class Baichuan(Decoder):
    """Llama whose matrices of q, k and v are stored as one (Yang et al. 2023)."""

    architectures = ("BaiChuanForCausalLM", "BaichuanForCausalLM")
    model_types = ("baichuan",)
    fields = {"max_position_embeddings": "model_max_length"}
    defaults = {"max_position_embeddings": 4096}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        if self.vocab_size == VOCABULARY_2:
            raise config.fail("vocab_size", "is Baichuan 2's, whose logits are made of normalised rows: not supported")
        if self.layers >= 40:
            raise config.fail("num_hidden_layers", "is that of 13B, whose positions are slopes (ALiBi): not supported")

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        return split(g, h, f"{at}.W_pack", [self.heads * self.head_dim] * 3)
