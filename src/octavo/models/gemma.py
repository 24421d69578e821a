"""Gemma 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from octavo.models.decoder import Decoder, activation_of
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Gemma(Decoder):
    """Llama with norms by 1 + weight, GeGLU, wide heads, and embeddings times √hidden (Gemma Team 2024)."""

    architectures = ("GemmaForCausalLM",)
    model_types = ("gemma",)
    defaults: ClassVar[Mapping[str, object]] = {
        "head_dim": 256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    }
    norm_offset = 1.0
    gguf = (GGUFFamily("gemma"),)

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        # Older files have "gelu" as their hidden_act, which nobody ever meant.
        self.activation = activation_of(self.config, "hidden_activation", "gelu_pytorch_tanh")
        self.embedding_scale = rounded(self.hidden**0.5, dtype_of(self.config))


def dtype_of(config: ConfigReader) -> object:
    """The type of a checkpoint's weights, as its configuration says it."""
    return config.values.get("dtype", config.values.get("torch_dtype"))


def rounded(x: float, dtype: object) -> float:
    """A positive number as it is in the type of a checkpoint's weights."""
    if dtype == "float16":
        return float(np.float16(x))
    bits = int(np.float32(x).view(np.uint32))
    if dtype == "bfloat16":
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(np.uint32(bits).view(np.float32))
