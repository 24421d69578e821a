"""Mixtures of experts: which experts a token asks, and what they make of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, ShapeError, StepShape, Weight, op
from octavo.graph.ops.pointwise import ACTIVATIONS, GLUS, check_kind

SCORES = ("softmax", "sigmoid", "sparsemixer")


@op
class Route(Node):
    """How much each expert's output counts: `scores` [tokens, experts], but 0 for all but `top_k` of them.

    A score is the softmax or the sigmoid of a logit. The largest are chosen, after `choice_bias` has been added where
    there is one. Of `groups` of neighbouring experts only those of the best `groups_used` are chosen, by the sum of a
    group's `group_best` largest (DeepSeek-AI 2024). What the chosen ones count for is their score, divided by their sum
    if `normalise`, times `factor`, and times `expert_scale` of each expert. Of equal ones, the first is chosen.

    With "sparsemixer" (Liu et al. 2024), each choice has a softmax of its own: of the logits of those experts that are
    left and whose distance from the largest logit is at most 2 `jitter` of it, or of their own if that is larger.
    """

    logits: Node
    top_k: int
    score: str
    normalise: bool
    factor: float
    choice_bias: Weight | None
    expert_scale: Weight | None
    groups: int
    groups_used: int
    group_best: int
    jitter: float

    @classmethod
    def of(
        cls,
        logits: Node,
        top_k: int,
        *,
        score: str = "softmax",
        normalise: bool = True,
        factor: float = 1.0,
        choice_bias: Weight | str | None = None,
        expert_scale: Weight | str | None = None,
        groups: int = 1,
        groups_used: int = 1,
        group_best: int = 1,
        jitter: float = 0.0,
    ) -> Node:
        """`choice_bias` and `expert_scale` are weights, or their names in full."""
        bias, scale = (
            Weight(one, (logits.columns,)) if isinstance(one, str) else one for one in (choice_bias, expert_scale)
        )
        return cls(logits, top_k, score, normalise, factor, bias, scale, groups, groups_used, group_best, jitter)

    def __post_init__(self) -> None:
        experts, groups, used = self.logits.columns, self.groups, self.groups_used
        if self.score not in SCORES:
            raise ValueError(f"route: {self.score!r} is no score; there are {', '.join(SCORES)}")
        if self.score == "sparsemixer" and (self.normalise or self.choice_bias or groups > 1):
            raise ValueError("route: sparsemixer has no groups and no bias, and its scores are not normalised")
        if groups < 1 or experts % groups or not 1 <= used <= groups or not 1 <= self.group_best <= experts // groups:
            raise ShapeError(f"route: {experts} experts in {groups} groups, of which {used} are used")
        if not 1 <= self.top_k <= experts // groups * used:
            raise ShapeError(f"route: {self.top_k} of {experts // groups * used} experts can't be chosen")

    @property
    def columns(self) -> int:
        return self.logits.columns

    def reference(self, run: ReferencePass, logits: Floats) -> Floats:
        routes = self._mix(logits) if self.score == "sparsemixer" else self._choose(run, logits)
        return np.asarray(routes if self.expert_scale is None else routes * run.read(self.expert_scale), np.float32)

    def _mix(self, logits: Floats) -> Floats:
        left, routes = logits.copy(), np.zeros_like(logits)
        for _ in range(self.top_k):
            chosen, best = left.argmax(-1, keepdims=True), left.max(-1, keepdims=True)
            is_near = best - logits <= 2 * np.float32(self.jitter) * np.maximum(np.abs(logits), best)
            exponentials = np.where(is_near, np.exp(left - best), 0)
            np.put_along_axis(routes, chosen, np.float32(self.factor) / exponentials.sum(-1, keepdims=True), -1)
            np.put_along_axis(left, chosen, -np.inf, -1)
        return routes

    def _choose(self, run: ReferencePass, logits: Floats) -> Floats:
        if self.score == "sigmoid":
            scores = 1 / (1 + np.exp(-logits))
        else:
            exponentials = np.exp(logits - logits.max(-1, keepdims=True))
            scores = exponentials / exponentials.sum(-1, keepdims=True)
        choice = scores if self.choice_bias is None else scores + run.read(self.choice_bias)
        if self.groups > 1:
            by_group = choice.reshape(len(choice), self.groups, -1)
            best = np.sort(by_group, -1)[..., -self.group_best :].sum(-1)
            worst = np.argsort(-best, -1, kind="stable")[:, self.groups_used :]
            np.put_along_axis(by_group := by_group.copy(), worst[..., None], -np.inf, 1)
            choice = by_group.reshape(choice.shape)
        chosen = np.argsort(-choice, -1, kind="stable")[:, : self.top_k]
        weights = np.take_along_axis(scores, chosen, -1)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdims=True) + np.float32(1e-20))
        routes = np.zeros_like(scores)
        np.put_along_axis(routes, chosen, np.float32(self.factor) * weights, -1)
        return np.asarray(routes, np.float32)


@op
class Experts(Node):
    """Sum over experts e of routes[:, e] * (down[e] · (activation(gate[e] · x) * (up[e] · x))), with biases if any.

    `bias` is added to the sum, whoever is asked. `routes` [tokens, experts] has at most `top_k` values that are not 0
    (Shazeer et al. 2017), and only those experts are computed. Without `up` it is activation(gate · x). With
    `on_input`, each expert's input is what is multiplied with the route, not its output; then `top_k` is 1.
    """

    x: Node
    routes: Node
    gate: tuple[Weight, ...]  # of each expert, [intermediate, x.columns]
    up: tuple[Weight, ...]
    down: tuple[Weight, ...]  # [x.columns, intermediate]
    gate_bias: tuple[Weight, ...]  # [intermediate] each, or none
    up_bias: tuple[Weight, ...]
    down_bias: tuple[Weight, ...]
    bias: Weight | None  # [x.columns]
    top_k: int
    kind: str
    on_input: bool
    keeps_float32 = True

    @classmethod
    def of(
        cls,
        x: Node,
        routes: Node,
        gate: Sequence[Weight],
        up: Sequence[Weight],
        down: Sequence[Weight],
        *,
        top_k: int,
        kind: str = "silu",
        on_input: bool = False,
        gate_bias: Sequence[Weight] = (),
        up_bias: Sequence[Weight] = (),
        down_bias: Sequence[Weight] = (),
        bias: str | None = None,
    ) -> Node:
        """`bias` is the weight's name in full."""
        matrices = (tuple(gate), tuple(up), tuple(down))
        biases = (tuple(gate_bias), tuple(up_bias), tuple(down_bias))
        common = None if bias is None else Weight(bias, (down[0].shape[0],))
        return cls(x, routes, *matrices, *biases, common, top_k, kind, on_input)

    def __post_init__(self) -> None:
        check_kind("experts", self.kind, GLUS if self.up else ACTIVATIONS)
        experts, sizes = self.routes.columns, {weight.shape for weight in (*self.gate, *self.up)}
        stacks = self.stacks
        if any(len(stack) not in (experts, 0) for stack in stacks) or not self.gate or not self.down:
            raise ShapeError(f"experts: routes to {experts} experts, {[len(stack) for stack in stacks]} weights")
        if sizes != {(self.intermediate, self.x.columns)} or {weight.shape[1] for weight in self.down} != {
            self.intermediate
        }:
            raise ShapeError(f"experts: matrices {sizes} and {self.down[0].shape} over {self.x.columns} columns")
        if self.on_input and self.top_k != 1:
            raise ShapeError(f"experts: on_input is for one expert a token, not {self.top_k}")

    @property
    def stacks(self) -> tuple[tuple[Weight, ...], ...]:
        """Its weights, those of one kind together."""
        return (self.gate, self.up, self.down, self.gate_bias, self.up_bias, self.down_bias)

    @property
    def intermediate(self) -> int:
        return self.gate[0].shape[0]

    @property
    def columns(self) -> int:
        return self.down[0].shape[0]

    def flops(self, step: StepShape) -> int:
        matrices = (stack[0].size for stack in (self.gate, self.up, self.down) if stack)
        return 2 * step.tokens * self.top_k * sum(matrices)

    def used_share(self, tokens: float) -> float:
        """As if tokens chose independently of each other."""
        return float(1 - (1 - self.top_k / self.routes.columns) ** tokens)

    def reference(self, run: ReferencePass, x: Floats, routes: Floats) -> Floats:
        total = np.zeros((len(x), self.columns), np.float32)
        if self.bias is not None:
            total += run.read(self.bias)
        for e in range(routes.shape[1]):
            tokens = np.flatnonzero(routes[:, e])
            factor = routes[tokens, e, None]
            rows = x[tokens] * factor if self.on_input else x[tokens]
            gate = _product(run, rows, self.gate, self.gate_bias, e)
            if self.up:
                hidden = GLUS[self.kind](gate, _product(run, rows, self.up, self.up_bias, e))
            else:
                hidden = ACTIVATIONS[self.kind](gate)
            made = _product(run, np.asarray(hidden, np.float32), self.down, self.down_bias, e)
            total[tokens] += made if self.on_input else factor * made
        return total


def _product(run: ReferencePass, x: Floats, stack: tuple[Weight, ...], biases: tuple[Weight, ...], e: int) -> Floats:
    product = x @ run.read(stack[e]).T
    return product + run.read(biases[e]) if biases else product
