"""How PyTorch computes mixtures of experts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.executor.torch.nodes import Device, computes
from octavo.executor.torch.ops import ACTIVATIONS, Pairs
from octavo.executor.torch.step import Step
from octavo.graph.ops.experts import Experts, Route
from octavo.graph.ops.linear import Linear


def router_logits(device: Device, node: Linear, x: Tensor) -> Tensor:
    """A linear that a `route` reads, in float32."""
    found = F.linear(x.float(), device.weights.in_float32(node.weight))
    return found if node.bias is None else found + device.weights.get(node.bias)


@computes(Route)
def route(device: Device, node: Route, step: Step, logits: Tensor) -> Tensor:
    logits = logits.float()
    routes = _mix(node, logits) if node.score == "sparsemixer" else _choose(device, node, logits)
    return routes if node.expert_scale is None else routes * device.weights.get(node.expert_scale)


def _mix(node: Route, logits: Tensor) -> Tensor:
    left, routes = logits, torch.zeros_like(logits)
    for _ in range(node.top_k):
        chosen = _largest(left, 1)
        best = left.gather(1, chosen)
        is_far = best - logits > 2 * node.jitter * torch.maximum(logits.abs(), best)
        weights = left.masked_fill(is_far, -torch.inf).softmax(1).gather(1, chosen)
        routes = routes.scatter(1, chosen, node.factor * weights)
        left = left.scatter(1, chosen, -torch.inf)
    return routes


def _choose(device: Device, node: Route, logits: Tensor) -> Tensor:
    scores = torch.sigmoid(logits) if node.score == "sigmoid" else logits.softmax(1)
    choice = scores if node.choice_bias is None else scores + device.weights.get(node.choice_bias)
    if node.groups > 1:
        by_group = choice.view(len(choice), node.groups, -1)
        best = _largest(by_group.topk(node.group_best).values.sum(2), node.groups_used)
        is_used = torch.zeros_like(by_group[..., 0], dtype=torch.bool).scatter_(1, best, True)
        choice = by_group.masked_fill(~is_used[:, :, None], -torch.inf).flatten(1)
    chosen = _largest(choice, node.top_k)
    weights = scores.gather(1, chosen)
    if node.normalise:
        weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
    return torch.zeros_like(scores).scatter_(1, chosen, node.factor * weights)


def _largest(x: Tensor, count: int) -> Tensor:
    """Where the largest of each row are; of equal ones, the first."""
    return x.argsort(dim=1, descending=True, stable=True)[:, :count]


@computes(Experts)
def experts(device: Device, node: Experts, step: Step | None, x: Tensor, routes: Tensor) -> Tensor:
    """The host never learns who asked whom, so the step can be captured."""
    chosen = routes.abs().topk(node.top_k).indices
    of_pairs, order = chosen.flatten().sort(stable=True)
    starts = torch.searchsorted(of_pairs, torch.arange(routes.shape[1] + 1, device=x.device))
    pairs, factors = Pairs(order, starts), routes.gather(1, chosen).flatten()

    stacks = device.weights.experts(node)

    def multiply(x: Tensor, stack: str, columns: int, factors: Tensor | None = None) -> Tensor:
        out = torch.empty(len(order), columns, dtype=device.dtype, device=x.device)
        device.kernels.multiply_experts(x, stacks[stack], stacks.get(f"{stack}_bias"), pairs, factors, out)
        return out

    h = device.cast(x.float() * factors[:, None] if node.on_input else x).contiguous()
    if node.up:
        gate, up = (multiply(h, name, node.intermediate) for name in ("gate", "up"))
        h = device.kernels.gated(gate, up, node.kind)
        del gate, up
    else:
        h = device.cast(ACTIVATIONS[node.kind](multiply(h, "gate", node.intermediate).float()))
    made = multiply(h, "down", node.columns, None if node.on_input else factors)
    total = made.view(len(x), node.top_k, -1).sum(1, dtype=torch.float32)
    return total if node.bias is None else total + device.weights.get(node.bias)
