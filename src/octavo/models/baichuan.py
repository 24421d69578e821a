"""Baichuan and Baichuan 2: 7B and 13B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.graph import Graph, Node, Weight
from octavo.graph.ops.linear import Logits
from octavo.models.alibi import alibi_slopes
from octavo.models.decoder import Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

VOCABULARY_2 = 125696  # Baichuan 2's: nothing else in a configuration tells the two from each other
LAYERS_OF_13B = 40  # likewise


class Baichuan(Decoder):
    """Llama whose matrices of q, k and v are stored as one (Yang et al. 2023).

    Positions of 13B are slopes (ALiBi). Baichuan 2's logits are of rows that are normalised.
    """

    architectures = ("BaiChuanForCausalLM", "BaichuanForCausalLM")
    model_types = ("baichuan",)
    fields = {"max_position_embeddings": "model_max_length"}
    defaults = {"max_position_embeddings": 4096}
    gguf = (GGUFFamily("baichuan", permuted=True, values={"is_gguf": True}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        self.has_rope = config.values.get("num_hidden_layers") != LAYERS_OF_13B
        super().__init__(config, max_model_len)
        self.is_gguf = config.flag("is_gguf")  # in which matrices are apart, and rows normalised if they must be
        self.parts = {**self.parts, "attn_qkv": "" if self.is_gguf else "W_pack"}

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"slopes": alibi_slopes(self.heads)} if not self.has_rope else {}

    def logits(self, g: Graph, x: Node) -> Node:
        if self.is_gguf or self.vocab_size != VOCABULARY_2:
            return super().logits(g, x)
        weight = Weight("lm_head.weight", (self.vocab_size, self.hidden), normalised=True)
        return g.append(Logits(x, weight))
