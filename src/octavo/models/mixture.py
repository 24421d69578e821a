"""What decoders with experts have in common: which layers have some, how they are named, who is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from octavo.graph import Graph, Node, Rows, Weight
from octavo.models.decoder import Decoder
from octavo.weights import Checkpoint
from octavo.weights.config_reader import ConfigReader

_SCORES = {"softmax": "softmax", "sigmoid": "sigmoid", "noaux_tc": "sigmoid"}  # by the names that configurations have
_STACK = re.compile(r"(?P<name>.*\.experts\.(?!bias$)[a-z][a-z0-9_]*?)(?P<bias>_bias)?(\.weight|\.bias)?")
_FUSED = ".experts.gate_up_proj.weight"


def name_stacks(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, of whose experts config.json says how they are stored: see `Mixture.layout`.

    Names of stacks that end in neither ".weight" nor ".bias" are made to.
    """
    tensors, layout = {}, "apart"
    for name, tensor in checkpoint.tensors.items():
        match = _STACK.fullmatch(name) if ".experts." in name else None
        ours = name if match is None or match[3] else f"{match['name']}.{'bias' if match['bias'] else 'weight'}"
        tensors[ours] = tensor if ours == name else replace(tensor, name=ours)
        if match is not None and layout == "apart":
            layout = "stacked"
        if ours.endswith(_FUSED):
            has_inputs_last = tensor.shape[-1] == checkpoint.config.get("hidden_size")
            layout = "fused" if has_inputs_last else "transposed"
    if layout == "apart":
        return checkpoint
    return replace(checkpoint, tensors=tensors, config={**checkpoint.config, "expert_layout": layout})


class Mixture(Decoder):
    """A decoder with experts in place of the MLPs of some layers (Shazeer et al. 2017).

    Beside Llama's fields it has `num_experts`, `num_experts_per_tok`, and those that it needs of these:
    `moe_intermediate_size`, `norm_topk_prob`, `scoring_func`, `routed_scaling_factor`, `n_group`, `topk_group`,
    `first_k_dense_replace`, `n_shared_experts`, `shared_expert_intermediate_size`. A family overrides what differs.
    """

    kind: ClassVar[str] = "experts"
    router_name: ClassVar[str] = "gate"
    router_bias: ClassVar[bool] = False
    on_input: ClassVar[bool] = False  # see `Experts`
    shared_name: ClassVar[str] = "mlp.shared_experts"
    choice_bias: ClassVar[str | None] = None  # the name of what is added for the choice alone
    score: ClassVar[str] = "softmax"
    normalises: ClassVar[bool] = True  # unless norm_topk_prob says it

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        super().__init__(config, max_model_len)
        config = self.config
        self.num_experts = config.integer("num_experts", high=4096)
        self.top_k = config.integer("num_experts_per_tok", high=self.num_experts)
        self.expert_size = config.integer("moe_intermediate_size", self.intermediate)
        shared = self.expert_size * config.integer("n_shared_experts", 0, low=0, high=1024)
        self.shared_size = config.integer("shared_expert_intermediate_size", shared, low=0)
        # Or "stacked", of one kind each; "fused", of gate and up; "transposed", the same as [inputs, rows].
        self.layout = config.text("expert_layout", "apart")
        self.routing = self.routes(config)

    def routes(self, config: ConfigReader) -> dict[str, Any]:
        """Who is asked, by the options of `route`."""
        groups = config.integer("n_group", 1, high=self.num_experts)
        score = config.text("scoring_func", self.score)
        if score not in _SCORES:
            raise config.fail("scoring_func", f"{score!r} is not known; known are {', '.join(_SCORES)}")
        found = {
            "score": _SCORES[score],
            "normalise": config.flag("norm_topk_prob", self.normalises),
            "factor": config.number("routed_scaling_factor", 1.0),
        }
        if groups == 1:
            return found
        size, rest = divmod(self.num_experts, groups)
        used = config.integer("topk_group", high=groups)
        if rest or size < 2:
            raise config.fail("n_group", f"{groups} groups of {self.num_experts} experts are of no size from 2 on")
        if used * size < self.top_k:
            reason = f"{used} groups of {size} experts have fewer than the {self.top_k} that a token asks"
            raise config.fail("topk_group", reason)
        return found | {"groups": groups, "groups_used": used, "group_best": 2}

    def is_sparse(self, i: int) -> bool:
        """Whether layer `i` has experts."""
        kinds = self.config.values.get("mlp_layer_types")
        if kinds is not None:
            if not isinstance(kinds, list) or len(kinds) < self.layers or not {*map(str, kinds)} <= {"dense", "sparse"}:
                reason = f"must be a list of {self.layers} of dense and sparse, got {kinds!r}"
                raise self.config.fail("mlp_layer_types", reason)
            return bool(kinds[i] == "sparse")
        return i >= self.config.integer("first_k_dense_replace", 0, low=0)

    @classmethod
    def gguf_names(cls) -> dict[str, str]:
        return super().gguf_names() | cls.gguf_experts()

    @classmethod
    def gguf_experts(cls) -> dict[str, str]:
        """The checkpoint's names of what layers with experts have, by GGUF's."""
        mlp, shared = cls.parts["mlp"], cls.shared_name
        found = {"ffn_gate_inp": f"{mlp}.{cls.router_name}", "ffn_gate_inp_shexp": f"{shared}_gate"}
        found["ffn_gate_up_exps"] = f"{mlp}.experts.gate_up_proj"
        for part in ("ffn_gate", "ffn_up", "ffn_down"):
            found[f"{part}_exps"] = f"{mlp}.experts.{cls.parts[part]}"
            found[f"{part}_shexp"] = f"{shared}.{cls.parts[part]}"
        return found | ({"exp_probs_b.bias": f"{mlp}.{cls.choice_bias}"} if cls.choice_bias else {})

    @property
    def ignored(self) -> tuple[str, ...]:
        """Also the layers behind the last that draft tokens."""
        config = self.config
        count = config.integer("num_nextn_predict_layers", config.integer("num_mtp_layers", 0, low=0), low=0, high=64)
        drafts = range(self.layers, self.layers + count)
        return (*super().ignored, *(rf"^{self.layers_name}\.{i}\." for i in drafts))

    def feed_forward(self, g: Graph, h: Node, i: int, at: str) -> Node:
        if not self.is_sparse(i):
            return super().feed_forward(g, h, i, at)
        made = self.mixture(g, h, f"{at}.{self.parts['mlp']}")
        return g.add(made, self.shared(g, h, f"{at}.{self.shared_name}")) if self.shared_size else made

    def mixture(self, g: Graph, h: Node, at: str) -> Node:
        logits = g.linear(h, f"{at}.{self.router_name}", self.num_experts, self.router_bias)
        routes = g.route(logits, self.top_k, choice_bias=self.added(at), **self.routing)
        options = {"top_k": self.top_k, "kind": self.activation, "on_input": self.on_input}
        return g.experts(h, routes, **self.matrices(at), **options)

    def added(self, at: str) -> Weight | None:
        """What is added to scores for the choice alone."""
        return Weight(f"{at}.{self.choice_bias}", (self.num_experts,)) if self.choice_bias else None

    def shared(self, g: Graph, h: Node, at: str) -> Node:
        """The expert that every token asks."""
        return self.gated(g, h, at, self.shared_size)

    def matrices(self, at: str) -> Mapping[str, list[Weight]]:
        """The experts' matrices, by the names that `experts` has for them."""
        inner = (self.expert_size, self.hidden)
        shapes = {"gate": inner, "up": inner, "down": inner[::-1]}
        ours = {part: self.parts[f"ffn_{part}"] for part in shapes}
        at = f"{at}.experts"
        if self.layout == "apart":
            return {
                part: [Weight(f"{at}.{e}.{ours[part]}.weight", shape) for e in range(self.num_experts)]
                for part, shape in shapes.items()
            }
        turned = self.layout == "transposed"
        found = {part: self.stack(f"{at}.{ours[part]}.weight", shape, None, turned) for part, shape in shapes.items()}
        if self.layout != "stacked":
            size = self.expert_size
            for start, part in enumerate(("gate", "up")):
                rows = Rows(1, 2 * size, start * size, (start + 1) * size)
                found[part] = self.stack(f"{at}.gate_up_proj.weight", inner, rows, turned)
        return found

    def stack(
        self, name: str, shape: tuple[int, ...], rows: Rows | None = None, transposed: bool = False
    ) -> list[Weight]:
        """Parts of one tensor, of every expert."""
        return [Weight(name, shape, rows, transposed, expert=e) for e in range(self.num_experts)]
