"""How PyTorch computes the ops that keep a state of each sequence: in the row that it has in the token table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.executor.torch.nodes import Device, computes
from octavo.executor.torch.ops import ACTIVATIONS
from octavo.executor.torch.step import Step
from octavo.graph.ops.state import CausalConv, Delta

CHUNK = 64  # tokens of a prompt that are computed at once


def owners(device: Device, state: Tensor, step: Step) -> Tensor:
    """The row of `state` that each token reads and writes; padding has the last one to itself."""
    return torch.where(step.slots[0] >= 0, step.places // device.width, len(state) - 1)


@computes(CausalConv)
def causal_conv(device: Device, node: CausalConv, step: Step, x: Tensor) -> Tensor:
    """The state of a row has the input of position p at p % (kernel - 1)."""
    state, kept, x = device.states[node.layer], node.kernel - 1, x.float()
    weight = device.weights.get(node.weight).float()[:, 0]
    owner = owners(device, state, step)
    index = torch.arange(len(x), device=x.device)
    total = weight[:, kept] * x
    for back in range(1, node.kernel):
        in_step = (index >= back) & (owner == owner.roll(back))
        found = torch.where(in_step[:, None], x.roll(back, 0), state[owner, (step.positions - back) % kept])
        total += weight[:, kept - back] * torch.where(step.positions[:, None] >= back, found, 0.0)
    for one in step.kept:
        for position in range(max(0, one.start + one.count - kept), one.start + one.count):
            row = one.begin + position - one.start
            found = x[row] if position >= one.start else state[owner[one.begin], position % kept]
            state[one.row, position % kept] = found
    is_newest = (index + kept >= len(x)) | (owner != owner.roll(-kept))
    state[torch.where(is_newest, owner, len(state) - 1), step.positions % kept] = x
    if node.bias is not None:
        total += device.weights.get(node.bias)
    return device.cast(total if node.activation == "none" else ACTIVATIONS[node.activation](total))


@computes(Delta)
def delta(device: Device, node: Delta, step: Step, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    state = device.states[node.layer]
    owner = owners(device, state, step)
    q, k, v = _for_heads(node, q) * node.key_dim**-0.5, _for_heads(node, k), v.float().view(len(v), node.heads, -1)
    decay, dt_bias = device.weights.get(node.decay), device.weights.get(node.dt_bias)
    g = (-decay.exp() if node.decay_is_log else decay) * F.softplus(a.float() + dt_bias)
    parts = q, k, v, g, node.factor * torch.sigmoid(b.float())
    decodes = [part.rows.long() for part in step.ragged[0] if part.max_count == 1] if step.prompts else [slice(None)]
    out, kept = torch.empty_like(v), {one.begin: one for one in step.kept}
    for rows in decodes:
        some = (part[rows].contiguous() for part in parts)
        out[rows] = device.kernels.delta_step(*some, state, owner[rows], step.positions[rows])
    for begin, end in step.prompts:
        now = torch.where(step.positions[begin] > 0, state[owner[begin]], 0.0)
        first = begin
        if begin in kept:
            first += kept[begin].count
            out[begin:first], now = delta_prompt([part[begin:first] for part in parts], now)
            state[kept[begin].row] = now
        out[first:end], state[owner[begin]] = delta_prompt([part[first:end] for part in parts], now)
    return device.cast(out.flatten(1))


def _for_heads(node: Delta, x: Tensor) -> Tensor:
    """q or k of every head of v, divided by its length: float32 [tokens, heads, key_dim]."""
    x = x.float().view(len(x), node.key_heads, -1)
    x = x * torch.rsqrt(x.square().sum(-1, keepdim=True) + node.eps)
    group = node.heads // node.key_heads
    return x.repeat(1, group, 1) if node.tiled else x.repeat_interleave(group, 1)


def delta_prompt(inputs: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of one sequence, in chunks, within which they are products of matrices (Yang et al. 2024).

    A chunk's changes u solve (1 + A) u = beta (v - e^G k S), where G are the sums of g from its beginning, and A are
    the weights with which tokens before change what a token reads: beta k · k' e^(G - G').
    """
    tokens = len(inputs[0])
    whole = -(-tokens // CHUNK)
    # [heads, chunks, tokens of a chunk, ...]; what is beyond the end changes nothing.
    q, k, v, g, beta = (
        F.pad(x, (0, 0) * (x.ndim - 1) + (0, whole * CHUNK - tokens)).view(whole, CHUNK, *x.shape[1:]).movedim(2, 0)
        for x in inputs
    )
    sums = g.cumsum(2)
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).triu(1)
    between = (sums[..., :, None] - sums[..., None, :]).masked_fill(later, float("-inf")).exp()
    learnt = beta[..., None] * torch.cat([v, k * sums.exp()[..., None]], -1)
    system = (beta[..., None] * k) @ k.mT * between  # the diagonal counts as ones
    solved = torch.linalg.solve_triangular(system, learnt, upper=False, unitriangular=True)
    values, from_state = solved.split([v.shape[-1], k.shape[-1]], -1)
    within, before = q @ k.mT * between, q * sums.exp()[..., None]
    left = (k * (sums[..., -1:] - sums).exp()[..., None]).mT
    decay = sums[..., -1, None, None].exp()
    out = torch.empty_like(v)
    for i in range(whole):
        change = values[:, i] - from_state[:, i] @ state
        out[:, i] = before[:, i] @ state + within[:, i] @ change
        state = state * decay[:, i] + left[:, i] @ change
    return out.movedim(0, 2).flatten(0, 1)[:tokens], state
