"""StarCoder and SantaCoder."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import split
from octavo.models.gpt2 import GPT2, LAYER, OUTER
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class GPTBigCode(GPT2):
    """GPT-2 whose heads share one key and one value (Li et al. 2023); matrices are stored as [outputs, inputs]."""

    architectures = ("GPTBigCodeForCausalLM",)
    model_types = ("gpt_bigcode",)
    defaults = {**GPT2.defaults, "hidden_act": "gelu_pytorch_tanh"}
    is_transposed = False
    gguf = (
        GGUFFamily(
            "starcoder",
            "GPTBigCodeForCausalLM",
            outer=OUTER,
            layer=LAYER,
            layers=GPT2.layers_name,
            values={"hidden_act": "gelu_pytorch_tanh"},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        kv_heads = 1 if config.flag("multi_query", True) else None
        super().__init__(ConfigReader({**config.values, "num_key_value_heads": kv_heads}, config.fail), max_model_len)

    def qkv(self, g: Graph, h: Node, at: str) -> Sequence[Node]:
        kv = self.kv_heads * self.head_dim
        groups = 1 if self.kv_heads == 1 else self.heads
        return split(g, h, f"{at}.c_attn", [self.hidden, kv, kv], bias=True, groups=groups)
