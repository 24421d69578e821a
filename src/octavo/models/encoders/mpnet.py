"""MPNet: all-mpnet-base-v2, multi-qa-mpnet, paraphrase-mpnet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from octavo.models.encoders.encoder import TextEncoder
from octavo.models.encoders.heads import ROBERTA_HEADS
from octavo.models.encoders.masked import ROBERTA
from octavo.weights.config_reader import ConfigReader

MAX_DISTANCE = 128


class MPNet(TextEncoder):
    """RoBERTa without segments, whose scores have biases by distance, the same in all layers (Song et al. 2020)."""

    architectures: ClassVar[tuple[str, ...]] = ("MPNetModel", "MPNetForMaskedLM")
    known_heads = ROBERTA_HEADS
    masked_head = ROBERTA
    base_name = "mpnet"
    names = {
        "segment": "",
        "attn_q": "attention.attn.q",
        "attn_k": "attention.attn.k",
        "attn_v": "attention.attn.v",
        "attn_output": "attention.attn.o",
        "attn_norm": "attention.LayerNorm",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.buckets = buckets_of(self.config.integer("relative_attention_num_buckets", 32, low=4))

    def first_position(self) -> int:
        return 2

    def scoring(self, i: int) -> Mapping[str, Any]:
        biases = f"{self.base_name}.encoder.relative_attention_bias.weight"
        return {**super().scoring(i), "biases": biases, "buckets": self.buckets}


def buckets_of(count: int, max_distance: int = MAX_DISTANCE) -> tuple[int, ...]:
    """The bucket of each distance from -max_distance to max_distance: of a key's position, less the query's.

    Each side has half of the buckets; half of those are for one distance each, the others for ranges that widen by a
    factor up to max_distance, in float32 (T5, Raffel et al. 2020).
    """
    side, exact = count // 2, count // 4
    distances = np.arange(-max_distance, max_distance + 1)
    far = np.maximum(abs(distances), 1).astype(np.float32) / np.float32(exact)
    widths = np.log(far) / np.float32(np.log(max_distance / exact)) * np.float32(side - exact)
    found = np.where(abs(distances) < exact, abs(distances), np.minimum(exact + widths.astype(int), side - 1))
    return tuple((found + side * (distances > 0)).tolist())
