"""Llama 4 Scout and Maverick, their text part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.graph import Graph, Node
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader
from octavo.weights.gguf_family import GGUFFamily


class Llama4(Mixture):
    """One expert a token, whose input is scaled; attention in blocks of the sequence, or to all, without positions.

    Source: Meta AI 2025.
    """

    architectures = ("Llama4ForCausalLM",)
    model_types = ("llama4_text",)
    fields = {
        "num_experts": "num_local_experts",
        "intermediate_size": "intermediate_size_mlp",
        "moe_intermediate_size": "intermediate_size",
        "shared_expert_intermediate_size": "intermediate_size",
    }
    defaults = {"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "attention_chunk_size": 8192}
    interleaved = True
    names = {"mlp": "feed_forward"}
    router_name = "router"
    shared_name = "feed_forward.shared_expert"
    score = "sigmoid"
    normalises = False
    on_input = True
    gguf = (
        GGUFFamily(
            "llama4",
            keys={
                "interleave_moe_layer_step": "interleave_moe_layer_step",
                "feed_forward_length": "intermediate_size_mlp",
                "expert_feed_forward_length": "intermediate_size",
            },
            values={"scoring_func": "sigmoid"},
        ),
    )

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(ConfigReader({**config.values, "layer_types": None}, config.fail), max_model_len)
        config = self.config
        if self.top_k != 1:
            raise config.fail("num_experts_per_tok", f"only 1 is supported, got {self.top_k}")
        every = config.integer("no_rope_layer_interval", 4)
        has_positions = config.integers("no_rope_layers", high=1) or [(i + 1) % every for i in range(self.layers)]
        if len(has_positions) != self.layers:
            raise config.fail("no_rope_layers", f"must be a list of {self.layers}, got {len(has_positions)}")
        self.ropes = [rope if has else None for rope, has in zip(self.ropes, has_positions, strict=True)]
        self.chunk = config.integer("attention_chunk_size", high=1 << 28)
        self.windows = [None] * self.layers
        # GGUF files do not say it: of two sizes, Scout has them.
        self.has_norms = self.num_experts != 128 if self.layout == "stacked" else config.flag("use_qk_norm", True)
        self.grows = config.flag("attn_temperature_tuning", True)
        self.growth, self.period = config.number("attn_scale", 0.1), config.integer("floor_scale", 8192)

    def is_sparse(self, i: int) -> bool:
        listed = self.config.values.get("moe_layers")
        every = self.config.integer("interleave_moe_layer_step", 1)
        return i in self.config.integers("moe_layers") if listed is not None else (i + 1) % every == 0

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.ropes[i] is None:
            return g.position_scale(q, self.growth, self.period, 1) if self.grows else q, k
        q, k = super().positions(g, q, k, i, at)
        return self.head_norms(g, q, k, at) if self.has_norms else (q, k)

    def scoring(self, i: int, at: str) -> Mapping[str, Any]:
        return {} if self.ropes[i] is None else {"chunk": self.chunk}
