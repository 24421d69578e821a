"""Runs a program on tensors: the graph's ops, through PyTorch and the kernels of the device."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from octavo.executor.torch import ops as plain
from octavo.executor.torch.program import AddNormOp, AttentionOp, MatmulOp, NodeOp, Op, Program
from octavo.executor.torch.step import Step
from octavo.executor.torch.weights import Weights
from octavo.graph.nodes import (
    Add,
    Attention,
    Conv1d,
    CrossAttention,
    Embed,
    Features,
    Gelu,
    Glu,
    LayerNorm,
    Logits,
    Node,
    PositionEmbed,
    RMSNorm,
    Rope,
    StoreSource,
)

# In the order of preference where the chip has them: cuDNN's is the fastest on Hopper, and newer ones.
BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class Interpreter:
    """A program with its weights. `kernels` has the functions of `ops`, for the device that the weights are on.

    `pages` is (keys, values) of every layer; `positions` how many a sequence may have.
    """

    def __init__(
        self,
        program: Program,
        weights: Weights,
        kernels: ModuleType,
        pages: list[tuple[Tensor, Tensor]],
        token_table: Tensor,
        positions: int,
    ):
        self.program, self.weights, self.kernels, self.pages = program, weights, kernels, pages
        self.tokens, self.positions, self.dtype = token_table.view(-1), positions, weights.dtype
        self._backends = BACKENDS
        if weights.device.type == "cuda" and torch.cuda.get_device_capability(weights.device) < (9, 0):
            self._backends = BACKENDS[1:]

    def load(self) -> None:
        """Brings all weights to the device, in the order in which they are used."""
        for op in self.program.ops:
            match op:
                case MatmulOp(nodes=nodes):
                    self.weights.matrix(*op.weights)
                    self.weights.bias(nodes)
                case AddNormOp(norm=node) | NodeOp(node=RMSNorm() as node):
                    self.weights.vector(node.weight)
                case NodeOp(node=Embed() | PositionEmbed() | Logits() as node):
                    self.weights.matrix(node.weight)
                case NodeOp(node=Conv1d() as node):
                    self.weights.matrix(node.weight)
                    self.weights.vector(node.bias)
                case NodeOp(node=LayerNorm() as node):
                    self.weights.vector(node.weight)
                    self.weights.vector(node.bias)
                case AttentionOp(table=table) if table is not None:
                    self.weights.rotation(table, self.positions)
        self.weights.loaded()

    def hidden(self, step: Step) -> Tensor:
        """Runs the program up to the logits: what they are computed from, [tokens, columns] in the model's type."""
        values: dict[Node, Tensor] = {}
        for op in self.program.ops[:-1]:
            self._run(op, values, step)
            for node in op.dead:
                del values[node]
        return self._narrow(values[self._logits.x])

    def encode(self, step: Step) -> None:
        """Runs the program of an encoder: its source's keys and values are stored."""
        values: dict[Node, Tensor] = {}
        for op in self.program.ops:
            self._run(op, values, step)
            for node in op.dead:
                values.pop(node, None)

    def cross_weights(self, step: Step, heads: Sequence[tuple[int, int]], positions: int) -> Tensor:
        """The weights of some heads (layer, head) of cross attention, for a step of one sequence.

        float32 [heads, tokens, positions].
        """
        values: dict[Node, Tensor] = {}
        found: dict[tuple[int, int], Tensor] = {}
        assert step.sources is not None
        blocks = step.sources.block_tables[0].long()
        for op in self.program.ops[:-1]:
            if isinstance(op, NodeOp) and isinstance(op.node, CrossAttention):
                node = op.node
                q, k_pages = _heads(self._narrow(values[node.q]), node.head_dim), self.pages[node.layer][0]
                for layer, head in heads:
                    if layer == node.layer:
                        keys = k_pages[blocks, head * node.kv_heads // node.heads].flatten(0, 1)[:positions]
                        scores = node.scale * (q[:, head].float() @ keys.float().t())
                        found[layer, head] = scores.softmax(1)
            self._run(op, values, step)
            for dead in op.dead:
                del values[dead]
        return torch.stack([found[head] for head in heads])

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [rows, vocabulary]; in 16 bits, likely tokens would often get the same logit."""
        weight = self.weights.matrix(self._logits.weight).t()
        if hidden.dtype == torch.float32:
            return hidden @ weight
        if hidden.is_cuda:
            return torch.mm(hidden, weight, out_dtype=torch.float32)
        return hidden.float() @ weight.float()

    @property
    def _logits(self) -> Logits:
        op = self.program.ops[-1]
        assert isinstance(op, NodeOp)
        assert isinstance(op.node, Logits)
        return op.node

    def _run(self, op: Op, values: dict[Node, Tensor], step: Step) -> None:
        match op:
            case MatmulOp(nodes=nodes):
                x = self._narrow(values[nodes[0].x])
                result = F.linear(x, self.weights.matrix(*op.weights), self.weights.bias(nodes))
                parts = torch.split(result, [node.columns for node in nodes], dim=1)
                values.update(zip(nodes, parts, strict=True))
            case AddNormOp(add=add, norm=norm):
                x, y, weight = values[add.x], values[add.y], self.weights.vector(norm.weight)
                values[add], values[norm] = self.kernels.add_rms_norm(x, y, weight, norm.eps, self.dtype)
            case AttentionOp():
                values[op.node] = self._attend(op, values, step)
            case NodeOp(node=StoreSource() as node):
                k, v = (_heads(self._narrow(values[x]), node.head_dim) for x in (node.k, node.v))
                plain.store(k, v, step.slots, *self.pages[node.layer])
            case NodeOp(node=node):
                values[node] = self._value(node, values, step)

    def _value(self, node: Node, values: dict[Node, Tensor], step: Step) -> Tensor:
        match node:
            case Embed():
                return F.embedding(self.tokens[step.places], self.weights.matrix(node.weight)).float()
            case PositionEmbed():
                return F.embedding(step.positions, self.weights.matrix(node.weight)).float()
            case Features():
                assert step.features is not None
                return self._narrow(step.features)
            case Conv1d():
                weight, bias = self.weights.matrix(node.weight), self.weights.vector(node.bias).to(self.dtype)
                x = self._narrow(values[node.x]).t()[None]
                return F.conv1d(x, weight, bias, node.stride, weight.shape[2] // 2)[0].t()
            case LayerNorm():
                scale, shift = self.weights.vector(node.weight), self.weights.vector(node.bias)
                return self._narrow(F.layer_norm(values[node.x].float(), (node.columns,), scale, shift, node.eps))
            case CrossAttention():
                return self._attend_source(node, values, step)
            case Gelu():
                return self._narrow(F.gelu(values[node.x].float()))
            case RMSNorm():
                weight = self.weights.vector(node.weight)
                normed: Tensor = self.kernels.rms_norm(values[node.x], weight, node.eps, self.dtype)
                return normed
            case Rope():
                heads = _heads(values[node.x], node.head_dim).clone()
                plain.rotate(heads, self.weights.rotation(node.table, self.positions), step.positions)
                return heads.flatten(1)
            case Add():
                return values[node.x].float() + values[node.y].float()
            case Glu():
                gated: Tensor = self.kernels.silu_mul(values[node.gate], values[node.up])
                return gated
            case _:
                raise TypeError(f"the torch executor has no {type(node).__name__}")

    def _attend(self, op: AttentionOp, values: dict[Node, Tensor], step: Step) -> Tensor:
        node = op.node
        q, k, v = (_heads(self._narrow(values[x]), node.head_dim) for x in (op.q, op.k, node.v))
        if not node.causal:
            return self._attend_prompt(node, q, k, v).flatten(1)
        rotation = None if op.table is None else self.weights.rotation(op.table, self.positions)
        k_pages, v_pages = self.pages[node.layer]
        self.kernels.rotate_and_store(q, k, v, rotation, step.positions, step.slots, k_pages, v_pages)
        out = torch.empty(q.shape, dtype=self.dtype, device=q.device)
        for begin, end in step.fresh:
            out[begin:end] = self._attend_prompt(node, q[begin:end], k[begin:end], v[begin:end])
        for ragged in step.groups:
            self.kernels.paged_attention(q, k_pages, v_pages, ragged, node.scale, node.window, out)
        return out.flatten(1)

    def _attend_prompt(self, node: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention within a prompt that has no history, or within a source: [tokens, heads, head_dim]."""
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        with sdpa_kernel(self._backends, set_priority=True):
            found = F.scaled_dot_product_attention(q, k, v, is_causal=node.causal, scale=node.scale, enable_gqa=True)
        return found[0].transpose(0, 1)

    def _attend_source(self, node: CrossAttention, values: dict[Node, Tensor], step: Step) -> Tensor:
        assert step.sources is not None
        q = _heads(self._narrow(values[node.q]), node.head_dim).contiguous()
        out = torch.empty_like(q)
        self.kernels.paged_attention(q, *self.pages[node.layer], step.sources, node.scale, None, out)
        return out.flatten(1)

    def _narrow(self, x: Tensor) -> Tensor:
        """`x` in the model's type, as matmuls and attention want it."""
        return x.to(self.dtype)


def _heads(x: Tensor, head_dim: int) -> Tensor:
    """[tokens, columns] as [tokens, heads, head_dim]."""
    return x.view(len(x), -1, head_dim)
