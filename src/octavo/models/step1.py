"""Step-1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.models.alibi import alibi_slopes
from octavo.models.decoder import Decoder


class Step1(Decoder):
    """Llama with slopes (ALiBi) in place of rotary positions, times the root of the distance (StepFun 2025)."""

    architectures = ("Step1ForCausalLM",)
    model_types = ("step1",)
    fields = {"num_key_value_heads": "num_attention_groups"}
    defaults = {"num_key_value_heads": 1, "tie_word_embeddings": True}
    has_rope = False

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"slopes": alibi_slopes(self.heads), "by_root": True}
