"""Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder, and the text part of Qwen3-VL's with experts."""

from __future__ import annotations

from typing import Any, ClassVar

from octavo.models.qwen2_moe import SparseLayers
from octavo.models.qwen3 import Qwen3
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import EXPERTS, HEAD_NORMS, LAYER, GGUFFamily

NAMES = LAYER | HEAD_NORMS | EXPERTS


class Qwen3Moe(SparseLayers, Qwen3):
    """Qwen3 with experts (Yang et al. 2025)."""

    architectures = ("Qwen3MoeForCausalLM",)
    model_types = ("qwen3_moe", "qwen3_vl_moe_text")
    fields = {"num_experts": "num_local_experts"}
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily("qwen3moe", "Qwen3MoeForCausalLM", layer=NAMES),
        GGUFFamily(
            "qwen3vlmoe",
            "Qwen3MoeForCausalLM",
            layer=NAMES,
            keys={"rope.dimension_sections": "mrope_section", "n_deepstack_layers": "deepstack_layers"},
        ),
    )

    def routes(self, config: ConfigReader) -> dict[str, Any]:
        """Others than the first mean `norm_topk_prob` where they do not say it."""
        is_first = config.values.get("model_type") == "qwen3_moe"
        return super().routes(config.renamed({}, {} if is_first else {"norm_topk_prob": True}))
