"""Gemma 2 in all sizes, and VaultGemma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.models.gemma import Gemma
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Gemma2(Gemma):
    """Gemma with norms before and after each branch, and soft caps of scores and logits (Gemma Team 2024).

    Every second layer has a window.
    """

    architectures = ("Gemma2ForCausalLM",)
    model_types = ("gemma2",)
    defaults: ClassVar[Mapping[str, object]] = {
        "head_dim": 256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
    }
    names = {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    caps: ClassVar[Mapping[str, float | None]] = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    layers_of_27b: ClassVar[int] = 46  # whose scores are scaled otherwise; GGUF files don't say it
    gguf = (GGUFFamily("gemma2", keys={field: field for field in caps}),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        if self.config.flag("use_bidirectional_attention"):
            raise config.fail("use_bidirectional_attention", "is not supported in this architecture")
        caps = {**self.caps, **{field: config.values[field] for field in self.caps if field in config.values}}
        self.softcap, self.logits_softcap = (
            None if value is None else config.number(field, value) for field, value in caps.items()
        )
        width = self.hidden / self.heads if self.layers == self.layers_of_27b else self.head_dim
        self.scale = self.config.number("query_pre_attn_scalar", width) ** -0.5

    def is_full(self, i: int) -> bool:
        return i % 2 == 1

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"softcap": self.softcap}


class VaultGemma(Gemma2):
    """The same without the norms after the branches (Sinha et al. 2025)."""

    architectures = ("VaultGemmaForCausalLM",)
    model_types = ("vaultgemma",)
    names = {"post_attention_norm": "", "post_ffw_norm": ""}
