"""How PyTorch computes each op of the graph: a function for each, found by the class of its node."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from octavo.executor.torch import ops as plain
from octavo.executor.torch.ops import Rotation, Scoring
from octavo.executor.torch.products import Products
from octavo.executor.torch.quantized import Quantized
from octavo.executor.torch.step import Step
from octavo.executor.torch.weights import Weights
from octavo.graph.node import Node
from octavo.graph.ops.attention import Attention, CrossAttention, StoreSource
from octavo.graph.ops.heads import Columns, Join
from octavo.graph.ops.linear import Conv1d, Logits
from octavo.graph.ops.norm import LayerNorm, Normalise, RMSNorm
from octavo.graph.ops.output import HiddenStates
from octavo.graph.ops.pointwise import Activation, Add, Clip, Glu, Scale, ScaleBy, Softcap, Xielu
from octavo.graph.ops.rope import PositionScale, Rope
from octavo.graph.ops.table import Embed, Features, PositionEmbed, SegmentEmbed


@dataclass(frozen=True)
class Device:
    """What all programs of a model have in common on a device. `kernels` has the functions of `ops`, made for it.

    `pages` is (keys, values) of every layer, `tokens` the flat token table, `positions` how many a sequence may have.
    """

    weights: Weights
    kernels: ModuleType
    products: Products
    pages: list[tuple[Tensor, Tensor]]
    groups: list[int]  # of layers: the number of the group whose blocks a layer has
    tokens: Tensor
    positions: int
    width: int  # of the token table
    states: dict[int, Tensor]  # by layer: float32 [rows of the token table + 1, ...]
    backends: list[SDPBackend]

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.dtype

    def cast(self, x: Tensor) -> Tensor:
        """`x` in the model's type, as matmuls and attention want it."""
        return x.to(self.dtype)

    def heads(self, x: Tensor, head_dim: int) -> Tensor:
        """[tokens, columns] as [tokens, heads, head_dim], in the model's type."""
        return self.cast(x).view(len(x), -1, head_dim)


# In the order of preference where the chip has them: cuDNN's is the fastest on Hopper, and newer ones.
BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def backends_of(device: torch.device) -> list[SDPBackend]:
    """What computes attention within a prompt there, the best first."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0)
    return BACKENDS[1:] if old else BACKENDS


NODES: dict[type[Node], Callable[..., Tensor]] = {}
Function = Callable[..., Tensor]


def computes(op: type[Node]) -> Callable[[Function], Function]:
    """Makes a function the one that computes `op`: it takes the device, the node, the step, and the node's inputs."""

    def register(function: Function) -> Function:
        NODES[op] = function
        return function

    return register


@computes(Embed)
def embed(device: Device, node: Embed, step: Step) -> Tensor:
    tokens, table = device.tokens[step.places], device.weights.matrix(node.weight)
    return device.products.rows(table, tokens) if isinstance(table, Quantized) else F.embedding(tokens, table).float()


@computes(PositionEmbed)
def position_embed(device: Device, node: PositionEmbed, step: Step) -> Tensor:
    return F.embedding(step.positions + node.offset, device.weights.get(node.weight)).float()


@computes(SegmentEmbed)
def segment_embed(device: Device, node: SegmentEmbed, step: Step) -> Tensor:
    table = device.weights.get(node.weight).float()
    if step.segments is None or len(table) == 1:
        return table[0].expand(len(step.positions), -1)
    return F.embedding(step.segments, table)


@computes(Features)
def features(device: Device, node: Features, step: Step) -> Tensor:
    assert step.features is not None
    return device.cast(step.features)


@computes(Conv1d)
def conv1d(device: Device, node: Conv1d, step: Step, x: Tensor) -> Tensor:
    weight, bias = device.weights.get(node.weight), device.cast(device.weights.get(node.bias))
    return F.conv1d(device.cast(x).t()[None], weight, bias, node.stride, node.kernel // 2)[0].t()


@computes(RMSNorm)
def rms_norm(device: Device, node: RMSNorm, step: Step, x: Tensor) -> Tensor:
    weight = device.weights.of_norm(node)
    if node.width == node.columns or len(weight) == node.width:
        normed: Tensor = device.kernels.rms_norm(x.reshape(-1, node.width), weight, node.eps, device.dtype)
        return normed.view(x.shape)
    groups = F.rms_norm(x.float().reshape(len(x), -1, node.width), (node.width,), eps=node.eps)
    return device.cast(groups.flatten(1) * weight)


@computes(LayerNorm)
def layer_norm(device: Device, node: LayerNorm, step: Step, x: Tensor) -> Tensor:
    groups = F.layer_norm(x.float().reshape(len(x), -1, node.width), (node.width,), eps=node.eps)
    weight = device.weights.of_norm(node)
    if len(weight) == node.width:
        scaled = groups * weight
    else:
        scaled = groups * weight.view(-1, node.width)
    if node.bias is not None:
        scaled = scaled + device.weights.get(node.bias).view(-1, node.width)
    return device.cast(scaled.flatten(1))


@computes(Normalise)
def normalise(device: Device, node: Normalise, step: Step, x: Tensor) -> Tensor:
    groups = x.float().reshape(len(x), -1, node.width)
    return device.cast(F.normalize(groups, dim=-1, eps=node.eps).flatten(1))


@computes(Add)
def add(device: Device, node: Add, step: Step, x: Tensor, y: Tensor) -> Tensor:
    return x.float() + y.float()


@computes(Glu)
def glu(device: Device, node: Glu, step: Step, gate: Tensor, up: Tensor) -> Tensor:
    if gate.shape != up.shape:  # a copy would be computed in other vectors
        gate = gate.repeat_interleave(up.shape[1] // gate.shape[1], 1)
    gated: Tensor = device.kernels.gated(gate, up, node.kind)
    return gated


@computes(Activation)
def activation(device: Device, node: Activation, step: Step, x: Tensor) -> Tensor:
    return device.cast(plain.ACTIVATIONS[node.kind](x.float()))


@computes(Xielu)
def xielu(device: Device, node: Xielu, step: Step, x: Tensor) -> Tensor:
    alpha_p, alpha_n, beta, eps = (device.weights.scalar(weight) for weight in node.weights)
    x = x.float()
    below = (beta + math.log1p(math.exp(alpha_n))) * (torch.expm1(x.clamp(max=eps)) - x)
    return device.cast(beta * x + torch.where(x > 0, math.log1p(math.exp(alpha_p)) * x.square(), below))


@computes(Scale)
def scale(device: Device, node: Scale, step: Step, x: Tensor) -> Tensor:
    return node.factor * x.float()


@computes(ScaleBy)
def scale_by(device: Device, node: ScaleBy, step: Step, x: Tensor) -> Tensor:
    return device.weights.get(node.weight).float() * x.float()


@computes(Clip)
def clip(device: Device, node: Clip, step: Step, x: Tensor) -> Tensor:
    return x.clamp(-node.limit, node.limit)


@computes(Softcap)
def softcap(device: Device, node: Softcap, step: Step, x: Tensor) -> Tensor:
    return device.cast(node.cap * torch.tanh(x.float() / node.cap))


@computes(Rope)
def rope(device: Device, node: Rope, step: Step, x: Tensor) -> Tensor:
    heads = x.reshape(len(x), -1, node.head_dim).clone()
    plain.rotate(heads, device.weights.rotation(node.table, device.positions), step.positions)
    return heads.flatten(1)


@computes(PositionScale)
def position_scale(device: Device, node: PositionScale, step: Step, x: Tensor) -> Tensor:
    periods = (step.positions + node.offset) // node.length
    return device.cast((1 + node.beta * torch.log1p(periods.float()))[:, None] * x.float())


@computes(Columns)
def columns(device: Device, node: Columns, step: Step, x: Tensor) -> Tensor:
    return x[:, node.first : node.first + node.count]


@computes(Join)
def join(device: Device, node: Join, step: Step, x: Tensor, y: Tensor) -> Tensor:
    parts = [device.heads(x, node.x_width), device.heads(y, node.y_width)]
    heads = max(part.shape[1] for part in parts)
    return torch.cat([part.expand(-1, heads, -1) for part in parts], dim=2).flatten(1)


@computes(Logits)
def logits(device: Device, node: Logits, step: Step | None, x: Tensor) -> Tensor:
    """float32 [rows, vocabulary]."""
    found = device.products.logits(device.cast(x), device.weights.matrix(node.weight))
    if node.bias is not None:
        found += device.weights.get(node.bias)
    if node.scale != 1:
        found *= node.scale
    return found if node.softcap is None else node.softcap * torch.tanh(found / node.softcap)


@computes(HiddenStates)
def hidden_states(device: Device, node: HiddenStates, step: Step | None, x: Tensor) -> Tensor:
    return x.float()


@computes(Attention)
def attention(
    device: Device,
    node: Attention,
    step: Step,
    q: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotation: Rotation | None = None,
) -> Tensor:
    """With `rotation`, q and k are rotated by it first, in place."""
    q = device.heads(q, node.head_dim)
    if k is not None and v is not None:
        k, v = device.heads(k, node.head_dim), device.heads(v, node.value_dim)
    if node.layer is None:
        assert k is not None
        assert v is not None
        if rotation is not None:
            plain.rotate(q, rotation, step.positions)
            plain.rotate(k, rotation, step.positions)
        return _attend_each(device, node, step, q, k, v).flatten(1)
    (k_pages, v_pages), group = device.pages[node.layer], device.groups[node.layer]
    if k is not None:
        device.kernels.rotate_and_store(q, k, v, rotation, step.positions, step.slots[group], k_pages, v_pages)
    out = torch.empty(*q.shape[:2], node.value_dim, dtype=device.dtype, device=q.device)
    for begin, end in step.fresh:  # there are none in models whose layers share keys, or change scores
        assert k is not None
        assert v is not None
        out[begin:end] = _attend_prompt(device, node, q[begin:end], k[begin:end], v[begin:end])
    for ragged in step.ragged[group]:
        device.kernels.paged_attention(q, k_pages, v_pages, ragged, scoring_of(device, node), out)
    return out.flatten(1)


def scoring_of(device: Device, node: Attention) -> Scoring:
    slopes = device.weights.constants(node.slopes) if node.slopes else None
    sinks = None if node.sinks is None else device.weights.get(node.sinks)
    biases = None if node.biases is None else device.weights.in_float32(node.biases)[[*node.buckets]].t().contiguous()
    how = node.window, node.chunk, node.lookback, node.softcap, slopes, node.by_root, biases, sinks, node.causal
    return Scoring(node.scale, *how)


def _attend_each(device: Device, node: Attention, step: Step, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention within the tokens that each sequence has in this step."""
    out = torch.empty(*q.shape[:2], node.value_dim, dtype=device.dtype, device=q.device)
    for begin, end in step.spans() or [(0, len(q))]:  # an encoder has one source
        out[begin:end] = _attend_prompt(device, node, q[begin:end], k[begin:end], v[begin:end])
    return out


def _attend_prompt(device: Device, node: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention within a prompt that has no history, or within a source: [tokens, heads, value_dim]."""
    scoring, mask = scoring_of(device, node), None
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    count = q.shape[2]
    if not scoring.is_plain:
        back, seen = scoring.back(count, count, q.device)
        return plain.attend(q[0], k[0], v[0], scoring, back, seen).transpose(0, 1)
    if (node.window or node.chunk or count) < count:
        _, mask = scoring.back(count, count, q.device)
    causal = node.causal and mask is None
    with sdpa_kernel(device.backends, set_priority=True):
        found = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=node.scale, enable_gqa=True)
    return found[0].transpose(0, 1)


@computes(StoreSource)
def store_source(device: Device, node: StoreSource, step: Step, k: Tensor, v: Tensor) -> Tensor:
    plain.store(
        device.heads(k, node.head_dim), device.heads(v, node.head_dim), step.slots[0], *device.pages[node.layer]
    )
    return k[:, :0]


@computes(CrossAttention)
def cross_attention(device: Device, node: CrossAttention, step: Step, q: Tensor) -> Tensor:
    assert step.sources is not None
    queries = device.heads(q, node.head_dim).contiguous()
    out = torch.empty_like(queries)
    device.kernels.paged_attention(queries, *device.pages[node.layer], step.sources, Scoring(node.scale), out)
    return out.flatten(1)


def cross_weights(
    device: Device, node: CrossAttention, step: Step, q: Tensor, heads: list[int], positions: int
) -> Tensor:
    """What some heads of a cross attention look at, in a step of one sequence: float32 [heads, tokens, positions]."""
    assert step.sources is not None
    blocks = step.sources.block_tables[0].long()
    queries, k_pages = device.heads(q, node.head_dim), device.pages[node.layer][0]
    found: list[Any] = []
    for head in heads:
        keys = k_pages[blocks, head * node.kv_heads // node.heads].flatten(0, 1)[:positions]
        found.append((node.scale * (queries[:, head].float() @ keys.float().t())).softmax(1))
    return torch.stack(found)
