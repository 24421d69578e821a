"""Runs a program on tensors: the graph's ops, through PyTorch and the kernels of the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

import octavo.executor.torch.states  # noqa: F401  (registers its ops)
from octavo.executor.torch.experts import experts, route, router_logits
from octavo.executor.torch.nodes import NODES, Device, cross_weights
from octavo.executor.torch.products import EXPERT_ROWS, KINDS_OF_ROWS
from octavo.executor.torch.program import Op, Program
from octavo.executor.torch.step import Step
from octavo.graph.hosted import Hosted, HostedLogits
from octavo.graph.node import Node
from octavo.graph.ops.attention import CrossAttention
from octavo.graph.ops.experts import Experts, Route
from octavo.graph.ops.linear import Linear, Logits
from octavo.graph.ops.norm import Norm, RMSNorm
from octavo.graph.ops.output import HiddenStates


class Interpreter:
    """A program on a device. Raises TypeError for an op that the torch executor does not have."""

    def __init__(self, program: Program, device: Device):
        self.program, self.device = program, device
        for op in program.ops:
            if op.kind == "node" and type(op.outputs[0]) not in NODES:
                raise TypeError(f"the torch executor has no op {op.outputs[0].name()}, which the graph has")

    def load(self) -> None:
        """Brings all weights to the device, in the order in which they are used."""
        weights = self.device.weights
        for op in self.program.ops:
            if op.kind == "linears":
                weights.stacked(op.outputs)
                continue
            for node in op.outputs:
                if isinstance(node, Hosted):
                    node.host.load(self.device)
                    continue
                if isinstance(node, Experts):
                    weights.experts(node)
                    continue
                for weight in node.weights:
                    if op.kind == "routes" and len(weight.shape) > 1:
                        weights.in_float32(weight)
                    elif weight.size > 1:
                        weights.matrix(weight)
                    else:
                        weights.scalar(weight)
                if isinstance(node, Norm):
                    weights.of_norm(node)
            if op.table is not None:
                weights.rotation(op.table, self.device.positions)
        weights.loaded()

    def warm_up(self) -> None:
        """Has kernels compiled: makes every product once for each number of rows that has kernels of its own."""
        device = self.device
        for op in self.program.ops:
            node = op.outputs[0]
            if isinstance(node, Experts):
                self._warm_up_experts(node)
            is_product = op.kind == "linears" or isinstance(op.outputs[0], Logits)
            for rows in KINDS_OF_ROWS if is_product else ():
                x = torch.zeros(rows, op.inputs[0].columns, dtype=device.dtype, device=device.weights.device)
                self._product(op, x)

    def _warm_up_experts(self, node: Experts) -> None:
        for rows in EXPERT_ROWS:
            tokens, device = rows * node.routes.columns // node.top_k, self.device.weights.device
            shapes = (tokens, node.x.columns), (tokens, node.routes.columns)
            experts(self.device, node, None, *(torch.zeros(shape, device=device) for shape in shapes))

    def hidden(self, step: Step) -> Tensor:
        """Runs the program up to its output: what that is computed from, [tokens, columns] in the model's type."""
        values: dict[Node, Tensor] = {}
        deque(self._run(self.program.ops[:-1], values, step), maxlen=0)
        return self.device.cast(values[self._output.x])

    def encode(self, step: Step) -> None:
        """Runs the program of an encoder: its source's keys and values are stored."""
        deque(self._run(self.program.ops, {}, step), maxlen=0)

    def cross_weights(self, step: Step, heads: Sequence[tuple[int, int]], positions: int) -> Tensor:
        """The weights of some heads (layer, head) of cross attention, for a step of one sequence.

        float32 [heads, tokens, positions].
        """
        values: dict[Node, Tensor] = {}
        found: dict[tuple[int, int], Tensor] = {}
        for op in self._run(self.program.ops[:-1], values, step):
            node = op.outputs[0]
            if isinstance(node, CrossAttention):
                asked = [head for layer, head in heads if layer == node.layer]
                if asked:
                    weights = cross_weights(self.device, node, step, values[node.q], asked, positions)
                    found |= {(node.layer, head): one for head, one in zip(asked, weights, strict=True)}
        return torch.stack([found[head] for head in heads])

    def logits(self, hidden: Tensor) -> Tensor:
        """The output, float32 [rows, columns]."""
        node = self._output
        return NODES[type(node)](self.device, node, None, hidden)

    @property
    def _output(self) -> Logits | HiddenStates | HostedLogits:
        (node,) = self.program.ops[-1].outputs
        assert isinstance(node, Logits | HiddenStates | HostedLogits)
        return node

    def _run(self, ops: Sequence[Op], values: dict[Node, Tensor], step: Step) -> Iterator[Op]:
        """Computes the ops, and gives each away while its inputs are still there."""
        for op in ops:
            self._compute(op, values, step)
            yield op
            for node in op.dead:
                values.pop(node, None)

    def _product(self, op: Op, x: Tensor) -> Tensor:
        node, weights = op.outputs[0], self.device.weights
        if isinstance(node, Logits):
            return self.logits(x)
        return self.device.products.linear(x, weights.stacked(op.outputs))

    def _compute(self, op: Op, values: dict[Node, Tensor], step: Step) -> None:
        device, inputs, node = self.device, [values[x] for x in op.inputs], op.outputs[0]
        match op.kind:
            case "linears":
                result = self._product(op, device.cast(inputs[0]))
                parts = torch.split(result, [linear.columns for linear in op.outputs], dim=1)
                values.update(zip(op.outputs, parts, strict=True))
            case "add and norm":
                norm = op.outputs[1]
                assert isinstance(norm, RMSNorm)
                weight = device.weights.of_norm(norm)
                values[node], values[norm] = device.kernels.add_rms_norm(*inputs, weight, norm.eps, device.dtype)
            case "routes":
                routes = op.outputs[1]
                assert isinstance(node, Linear)
                assert isinstance(routes, Route)
                values[routes] = route(device, routes, step, router_logits(device, node, *inputs))
            case "rotated attention":
                assert op.table is not None
                rotation = device.weights.rotation(op.table, device.positions)
                values[node] = NODES[type(node)](device, node, step, *inputs, rotation=rotation)
            case _:
                values[node] = NODES[type(node)](device, node, step, *inputs)
