"""DeepSeek V2, V2.5, Coder V2 and V2 Lite."""

from __future__ import annotations

from typing import Any, ClassVar

from octavo.graph.builder import Graph
from octavo.graph.node import Node, Weight
from octavo.models.mla import LatentAttention
from octavo.weights.config_reader import ConfigReader


class DeepseekV2(LatentAttention):
    """Latent attention; in all layers but the first ones, experts beside an MLP for all tokens (DeepSeek-AI 2024)."""

    architectures = ("DeepseekV2ForCausalLM",)
    model_types: ClassVar[tuple[str, ...]] = ("deepseek_v2",)
    kind = "experts"
    interleaved = True
    defaults: ClassVar[dict[str, object]] = {"v_head_dim": 128}
    score: ClassVar[str] = "softmax"

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.experts = config.integer("n_routed_experts", high=4096)
        self.shared = config.integer("n_shared_experts", 0, low=0, high=4096)
        self.top_k = config.integer("num_experts_per_tok", high=self.experts)
        self.expert_width = config.integer("moe_intermediate_size")
        self.sparse = self.sparse_layers(config)
        if (score := config.text("scoring_func", self.score)) != self.score:
            raise config.fail("scoring_func", f"{score!r} is not supported in this architecture, only {self.score!r}")
        self.routing = self.route(config)

    def route(self, config: ConfigReader) -> dict[str, Any]:
        """How experts are chosen, as options of the op."""
        normalise, factor = config.flag("norm_topk_prob"), config.number("routed_scaling_factor", 1.0)
        found = {"score": self.score, "normalise": normalise, "factor": 1.0 if normalise else factor}
        return found | (self.groups(config) if config.text("topk_method", "greedy") == "group_limited_greedy" else {})

    def groups(self, config: ConfigReader) -> dict[str, int]:
        return {"groups": config.integer("n_group", 1), "groups_used": config.integer("topk_group", 1)}

    @property
    def ignored(self) -> tuple[str, ...]:
        """Layers after the last one draft tokens."""
        drafts = self.config.integer("num_nextn_predict_layers", 1, low=0, high=64)
        numbers = "|".join(str(self.layers + i) for i in range(max(1, drafts)))
        return (*super().ignored, rf"^model\.layers\.({numbers})\.")

    def sparse_layers(self, config: ConfigReader) -> list[bool]:
        """Which layers have experts."""
        first, every = config.integer("first_k_dense_replace", 0, low=0), config.integer("moe_layer_freq", 1)
        kinds = config.values.get("mlp_layer_types")
        if kinds is None:
            return [i >= first and i % every == 0 for i in range(self.layers)]
        known = ("dense", "sparse")
        if not isinstance(kinds, list) or len(kinds) < self.layers or not all(kind in known for kind in kinds):
            raise config.fail("mlp_layer_types", f"must be a list of {self.layers} of dense and sparse, got {kinds!r}")
        return [kind == "sparse" for kind in kinds[: self.layers]]

    def layer(self, g: Graph, x: Node, i: int, at: str) -> Node:
        x = g.add(x, self.attention(g, self.norm(g, x, f"{at}.input_layernorm"), i, f"{at}.self_attn"))
        mlp = self.mixture if self.sparse[i] else self.mlp
        return g.add(x, mlp(g, self.norm(g, x, f"{at}.post_attention_layernorm"), f"{at}.mlp"))

    def mixture(self, g: Graph, h: Node, at: str) -> Node:
        routes = g.route(g.linear(h, f"{at}.gate", self.experts), self.top_k, **self.bias(at), **self.routing)
        down = (self.hidden, self.expert_width)
        shapes = {"gate_proj": down[::-1], "up_proj": down[::-1], "down_proj": down}
        stacks = [[self.expert(at, e, *part) for e in range(self.experts)] for part in shapes.items()]
        made = g.experts(h, routes, *stacks, top_k=self.top_k, kind=self.activation)
        if not self.shared:
            return made
        return g.add(made, self.gated(g, h, f"{at}.shared_experts", self.shared * self.expert_width))

    def bias(self, at: str) -> dict[str, str]:
        """What is added to scores before experts are chosen."""
        return {}

    def expert(self, at: str, number: int, part: str, shape: tuple[int, ...]) -> Weight:
        if self.config.flag("experts_are_stacked"):
            return Weight(f"{at}.experts.{part}.weight", shape, expert=number)
        return Weight(f"{at}.experts.{number}.{part}.weight", shape)
