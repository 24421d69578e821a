"""Jais 1: 590M to 30B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.graph import Graph, Node
from octavo.models.alibi import alibi_slopes
from octavo.models.decoder import Decoder
from octavo.models.gpt2 import GPT2
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Jais(GPT2):
    """GPT-2 with slopes (ALiBi), a SwiGLU MLP, and factors of embeddings, scores and logits (Sengupta et al. 2023)."""

    architectures = ("JAISLMHeadModel",)
    model_types = ("jais",)
    fields = {
        **{ours: theirs for ours, theirs in GPT2.fields.items() if ours != "hidden_act"},
        "embeddings_scale": "mup_embeddings_scale",
        "scale_qk_dot_by_d": "mup_scale_qk_dot_by_d",
    }
    defaults = {**GPT2.defaults, "hidden_act": "silu"}
    names = {"ffn_gate": "c_fc2"}
    gguf = (  # embeddings are already scaled there, and logits
        GGUFFamily(
            "jais",
            keys={"attention.max_alibi_bias": "alibi_bias_max"},
            values={"rows_are_outputs": True, "scale_qk_dot_by_d": True},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        for field, only in (("activation_function", "swiglu"), ("position_embedding_type", "alibi")):
            if (kind := config.text(field, only)) != only:
                raise config.fail(field, f"{kind!r} is not supported in this architecture, only {only}")
        super().__init__(config, max_model_len)
        config = self.config
        self.embedding_scale = config.number("embeddings_scale", 1.0)
        if config.values.get("mup_width_scale") is not None:
            self.logits_scale = config.number("mup_width_scale") * config.number("mup_output_alpha", 1.0)
        else:
            self.logits_scale = config.number("width_scale", 1.0)
        if config.flag("scale_qk_dot_by_d"):
            self.scale = 1 / self.head_dim
        self.slopes = alibi_slopes(self.heads, config.number("alibi_bias_max", 8.0))

    def embed(self, g: Graph) -> Node:
        return Decoder.embed(self, g)

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {**super().scoring(i, at), "slopes": self.slopes}
