"""Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder, and the text part of Qwen3-VL's with experts."""

from __future__ import annotations

from typing import Any

from octavo.models.qwen2_moe import SparseLayers
from octavo.models.qwen3 import VL_KEYS, Qwen3
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Qwen3Moe(SparseLayers, Qwen3):
    """Qwen3 with experts (Yang et al. 2025)."""

    architectures = ("Qwen3MoeForCausalLM",)
    model_types = ("qwen3_moe", "qwen3_vl_moe_text", "qwen3_omni_moe_text")
    fields = {"num_experts": "num_local_experts"}
    gguf = (GGUFFamily("qwen3moe"), GGUFFamily("qwen3vlmoe", keys=VL_KEYS))

    def routes(self, config: ConfigReader) -> dict[str, Any]:
        """Others than the first mean `norm_topk_prob` where they do not say it."""
        is_first = config.values.get("model_type") == "qwen3_moe"
        return super().routes(config.renamed({}, {} if is_first else {"norm_topk_prob": True}))
