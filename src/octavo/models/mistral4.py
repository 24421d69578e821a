"""Mistral 4, and the text part of models that are made of it."""

from __future__ import annotations

from typing import Any, ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node, Rows, Weight
from octavo.models.deepseek_v2 import DeepseekV2
from octavo.weights.config_reader import ConfigReader


class Mistral4(DeepseekV2):
    """DeepSeek V2 whose queries grow with each length of context that it was first trained on (Mistral 2026)."""

    architectures = ("Mistral4ForCausalLM",)
    model_types = ("mistral4",)
    defaults: ClassVar[dict[str, object]] = {"v_head_dim": 128, "norm_topk_prob": True}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        rope = self.config.object("rope_parameters")
        self.growth = rope.number("llama_4_scaling_beta") if rope.values.get("llama_4_scaling_beta") else None
        self.length = rope.integer("original_max_position_embeddings", self.max_positions, high=1 << 28)

    def route(self, config: ConfigReader) -> dict[str, Any]:
        normalise, factor = config.flag("norm_topk_prob", True), config.number("routed_scaling_factor", 1.0)
        best = min(2, self.experts // config.integer("n_group", 1))
        return {"normalise": normalise, "factor": factor, **self.groups(config), "group_best": best}

    def expert(self, at: str, number: int, part: str, shape: tuple[int, ...]) -> Weight:
        if part == "down_proj":
            return Weight(f"{at}.experts.down_proj", shape, expert=number)
        start = 0 if part == "gate_proj" else self.expert_width
        rows = Rows(1, 2 * self.expert_width, start, start + self.expert_width)
        return Weight(f"{at}.experts.gate_up_proj", shape, rows, expert=number)

    def positions(self, g: Graph, q: Node, k: Node, i: int, at: str) -> tuple[Node, Node]:
        if self.growth is not None:
            q = g.position_scale(q, self.growth, self.length)
        return super().positions(g, q, k, i, at)
