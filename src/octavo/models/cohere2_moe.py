"""Command A with experts."""

from __future__ import annotations

from typing import Any

from octavo.graph import Graph, Node
from octavo.models.cohere import Cohere2
from octavo.models.mixture import Mixture
from octavo.weights.config_reader import ConfigReader


class Cohere2Moe(Mixture, Cohere2):
    """Command A whose MLPs are experts; with one for all tokens, which may be averaged with them (Cohere 2026)."""

    architectures = ("Cohere2MoeForCausalLM",)
    model_types = ("cohere2_moe",)
    fields = {**Cohere2.fields, "n_shared_experts": "num_shared_experts", "scoring_func": "expert_selection_fn"}

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        self.is_rms = config.values.get("rms_norm_eps") is not None
        if self.is_rms:
            self.eps = config.number("rms_norm_eps", high=1.0)
        config = self.config
        if config.values.get("prefix_dense_intermediate_size") is not None:
            self.intermediate = config.integer("prefix_dense_intermediate_size")
        table = self.rope(config)
        if config.integer("prefix_dense_sliding_window_pattern", 1) == 1:
            self.ropes = [rope if self.is_sparse(i) else table for i, rope in enumerate(self.ropes)]
        kind = config.text("shared_expert_combination_strategy", "average")
        if kind not in ("average", "sum"):
            raise config.fail("shared_expert_combination_strategy", f"{kind!r} is not known, only average and sum")
        self.share = 0.5 if kind == "average" and self.shared_size else 1.0

    def norm(self, g: Graph, x: Node, name: str) -> Node:
        return g.rms_norm(x, name, self.eps) if self.is_rms else super().norm(g, x, name)

    def feed_forward(self, g: Graph, h: Node, i: int, at: str) -> Node:
        made = super().feed_forward(g, h, i, at)
        return made if self.share == 1 or not self.is_sparse(i) else g.scale(made, self.share)

    def routes(self, config: ConfigReader) -> dict[str, Any]:
        found = super().routes(config)
        return found | {"normalise": found["normalise"] or found["score"] == "softmax"}
