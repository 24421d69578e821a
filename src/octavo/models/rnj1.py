"""Rnj-1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.models.gemma3 import Gemma3
from octavo.models.rope import for_layers
from octavo.weights.config_reader import ConfigReader

CHUNKS = 2  # that a window is: a token's own, and the one before


class Rnj1(Gemma3):
    """Gemma 3 whose windows are chunks: a token sees its own and the one before (Essential AI 2025)."""

    architectures = ("Rnj1ForCausalLM",)
    model_types = ("rnj1",)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        kinds = config.values.get("layer_types")
        if not isinstance(kinds, list):
            raise config.fail("layer_types", f"must be a list, got {kinds!r:.80}")
        named = ["sliding_attention" if kind == "chunked_attention" else kind for kind in kinds]
        super().__init__(ConfigReader({**config.values, "layer_types": named}, config.fail), max_model_len)
        chunked = self.rope(for_layers(self.config, "chunked_attention"))
        self.ropes = [self.ropes[i] if self.full[i] else chunked for i in range(self.layers)]
        self.chunks = [window and window // CHUNKS for window in self.windows]
        self.windows = [None] * self.layers

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        chunk = self.chunks[i]
        return {**super().scoring(i, at), **({"chunk": chunk, "lookback": CHUNKS - 1} if chunk else {})}
