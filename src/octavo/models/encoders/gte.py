"""GTE's newer encoders: gte-multilingual, gte-base-en-v1.5, Snowflake's arctic-embed-m-v2.0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from octavo.graph.ops.rope import RopeTable
from octavo.models.encoders.encoder import TextEncoder
from octavo.models.encoders.masked import GTE
from octavo.models.rope import rope_table
from octavo.weights.config_reader import ConfigReader


class Gte(TextEncoder):
    """BERT with rotary positions and a gated MLP, up and gate in one matrix (Zhang et al. 2024)."""

    architectures: ClassVar[tuple[str, ...]] = (
        "NewModel", "GteNewModel", "GteModel", "NewForMaskedLM", "GteForMaskedLM",
    )  # fmt: skip
    defaults: ClassVar[Mapping[str, object]] = {"max_position_embeddings": 8192}
    gate_bias = False
    masked_head = GTE
    position_types = ("rope", "rotary", "absolute")
    base_name: str = "new"  # type: ignore[misc]
    names = {
        "position": "",
        "attn_qkv": "attention.qkv_proj",
        "attn_output": "attention.o_proj",
        "attn_norm": "attn_ln",
        "ffn_up_gate": "mlp.up_gate_proj",
        "ffn_down": "mlp.down_proj",
        "ffn_norm": "mlp_ln",
    }

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        self.base_name = "gte" if config.values.get("model_type") == "gte" else self.base_name  # transformers' own
        super().__init__(config, max_model_len)
        if self.config.text("layer_norm_type", "layer_norm") != "layer_norm":
            raise self.config.fail("layer_norm_type", "only layer_norm is known")
        if self.config.text("logn_attention_scale", "") or self.config.flag("logn_attention_clip1"):
            raise self.config.fail("logn_attention_scale", "scores that depend on the length are not known")
        self.ropes = [self.rope(self.config)] * self.layers

    def rope(self, config: ConfigReader) -> RopeTable:
        """As elsewhere; or, of the type "ntk", of `factor` times the base, each frequency divided by factor^(2/d)."""
        scaling = config.object("rope_scaling")
        if scaling.values.get("type") != "ntk":
            return rope_table(config, self.head_dim, self.max_positions, self.max_model_len)
        if scaling.values.get("mixed_b") is not None:
            raise scaling.fail("mixed_b", "is not known")
        factor, dim = scaling.number("factor"), self.head_dim
        base = config.number("rope_theta", 10000.0) * factor
        frequencies = base ** -(np.arange(0, dim, 2) / dim) / factor ** (2 / dim)
        return RopeTable(tuple(frequencies.tolist()))
