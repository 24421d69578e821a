"""Granite with windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.models.granite import KEYS, Granite
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily

GGUF_LAYER = {  # those with experts are of the same architecture
    **{f"ffn_{part}_exps": f"block_sparse_moe.experts.{part}_proj" for part in ("gate", "up", "gate_up", "down")},
    "ffn_gate_inp": "block_sparse_moe.router",
    "attn_sinks.weight": "self_attn.sinks",
}


class GraniteSWA(Granite):
    """Granite with a sink for each head, a window in three of four layers, and frequencies of each layer's own."""

    architectures = ("GraniteSWAForCausalLM",)
    model_types = ("granite_swa",)
    defaults = {"sliding_window": 128, "max_position_embeddings": 8192, "tie_word_embeddings": True}
    gguf: ClassVar[tuple[GGUFFamily, ...]] = (
        GGUFFamily(
            "granite_swa",
            layer=GGUF_LAYER,
            keys=KEYS | {"attention.rope_pattern": "layer_rope"},
            with_experts="GraniteMoeSWAForCausalLM",
            permuted=True,
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        thetas, rotated = (self.config.values.get(field) for field in ("layer_rope_theta", "layer_rope"))
        if isinstance(rotated, list):  # of GGUF files, in which all layers have the same
            thetas = [self.config.number("rope_theta") * bool(one) for one in rotated]
        if thetas is None:
            return
        if not isinstance(thetas, list) or len(thetas) < self.layers or not all(_is_theta(theta) for theta in thetas):
            reason = f"must be a list of {self.layers} numbers from 0 on, got {thetas!r:.80}"
            raise self.config.fail("layer_rope_theta", reason)
        scaling = for_layers(self.config, "full_attention").object("rope_parameters").values
        of_theta = {
            theta: self.rope(
                ConfigReader({**self.config.values, "rope_parameters": {**scaling, "rope_theta": theta}}, config.fail)
            )
            for theta in set(thetas) - {0}
        }
        self.ropes = [of_theta.get(theta) for theta in thetas[: self.layers]]

    def is_full(self, i: int) -> bool:
        return i % 4 == 0

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {"sinks": f"{at}.sinks"}


def _is_theta(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
