"""Command R, Command R+ and Aya 23; Command R7B and Command A."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from octavo.graph import Graph, Node
from octavo.models.decoder import HEAD_NORMS, Decoder
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Cohere(Decoder):
    """Attention and MLP side by side, of one layer norm without bias; neighbouring pairs are rotated (Cohere 2024)."""

    architectures = ("CohereForCausalLM",)
    model_types = ("cohere",)
    fields = {"rms_norm_eps": "layer_norm_eps", "has_head_norms": "use_qk_norm"}
    defaults: ClassVar[Mapping[str, object]] = {
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "has_head_norms": False,
    }
    names = HEAD_NORMS | {"ffn_norm": ""}
    is_parallel = True
    interleaved = True
    is_layer_norm, norm_bias = True, False
    gguf = (GGUFFamily("command-r", keys={"logit_scale": "logit_scale"}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.logits_scale = self.config.number("logit_scale", 0.0625)

    def head_norms(self, g: Graph, q: Node, k: Node, at: str) -> tuple[Node, Node]:
        """Each head has weights of its own."""
        d = self.head_dim
        q = g.layer_norm(q, f"{at}.q_norm", self.eps, bias=False, width=d, shape=(self.heads, d))
        return q, g.layer_norm(k, f"{at}.k_norm", self.eps, bias=False, width=d, shape=(self.kv_heads, d))


class Cohere2(Cohere):
    """Command R with a window in three of four layers; the others have no positions (Cohere 2024)."""

    architectures = ("Cohere2ForCausalLM",)
    model_types = ("cohere2",)
    defaults = {**Cohere.defaults, "sliding_window": 4096, "rope_theta": 10000.0}
    gguf = (GGUFFamily("cohere2", keys={"logit_scale": "logit_scale"}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.ropes = [None if self.full[i] else rope for i, rope in enumerate(self.ropes)]

    def is_full(self, i: int) -> bool:
        return (i + 1) % self.config.integer("sliding_window_pattern", 4) == 0
