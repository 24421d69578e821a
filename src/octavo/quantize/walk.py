"""Texts on their way through a graph, node by node, computed by the references of its nodes, in float32.

So a weight can be quantized when its inputs are there, and what comes after sees it quantized; of the weights no more
than one node's are in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from octavo.graph.builder import Graph
from octavo.graph.node import Floats, Node, Weight
from octavo.graph.ops.linear import Logits
from octavo.quantize.gptq import Hessian

ROWS = 64  # of logits at once


@dataclass(frozen=True)
class Figures:
    """What quantizing costs, over some texts: the mean of each."""

    before: float  # perplexity
    after: float
    divergence: float  # KL, of the distribution before from that after
    agreement: float  # the share of tokens after which the likeliest one is the same


@dataclass(eq=False)
class Run:
    """One text, from its beginning; see `octavo.graph.node.ReferencePass`."""

    token_ids: Sequence[int]
    weights: Mapping[Weight, Floats] = field(default_factory=dict)  # of the node that is computed
    values: dict[Node, Floats] = field(default_factory=dict)  # that are still to be read
    features: Floats | None = None
    cache: dict[int, tuple[Floats, Floats]] = field(default_factory=dict)
    sources: dict[int, tuple[Floats, Floats]] = field(default_factory=dict)
    second_start: int = 0

    def read(self, weight: Weight) -> Floats:
        return self.weights[weight]


class Walk:
    """Computes each text of `calibration`, and those of `evaluation` twice, with and without the quantized weights.

    Texts are token ids. `map_parts` may compute texts side by side.
    """

    def __init__(
        self,
        graph: Graph,
        calibration: Iterable[list[int]],
        evaluation: Iterable[list[int]],
        map_parts: Callable[..., Iterable[Any]] = map,
    ):
        self.calibrating = [Run(tokens) for tokens in calibration]
        self.pairs = [(Run(tokens), Run(tokens)) for tokens in evaluation]
        self.map_parts = map_parts
        self.figures: Figures | None = None
        self._unread = Counter(x for node in graph.nodes for x in set(node.inputs))
        self._last = {node.cached[0]: node for node in graph.nodes if node.cached}  # to read a layer of the cache
        self._hessian: tuple[Node, Hessian] | None = None

    def hessian(self, x: Node) -> Hessian | None:
        """Of the value `x`, which linears that follow each other have in common; None without a calibration."""
        if self.calibrating and (self._hessian is None or self._hessian[0] is not x):
            self._hessian = x, Hessian(x.columns, (run.values[x] for run in self.calibrating))
        return self._hessian and self._hessian[1]

    def advance(
        self,
        node: Node,
        weights: Mapping[Weight, Floats],
        quantized: Mapping[Weight, Floats],
        round_inputs: Callable[[Floats], Floats] | None,
    ) -> None:
        """Computes `node` with the weights as they were, or are now, and as engines quantize its inputs."""
        exact = [before for before, _ in self.pairs]
        others = [*(after for _, after in self.pairs), *self.calibrating]
        for run in exact:
            run.weights = weights
        for run in others:
            run.weights = quantized
        if isinstance(node, Logits):
            self.figures = self._compare(node) if self.pairs else None
            return
        for runs, change in ((exact, None), (others, round_inputs)):
            list(self.map_parts(partial(_compute, node, change), runs))
        self._forget(node, exact + others)

    def _forget(self, node: Node, runs: list[Run]) -> None:
        """Values, and keys and values, that nothing reads any more."""
        self._unread.subtract(set(node.inputs))
        gone = [x for x in set(node.inputs) if not self._unread[x]]
        layer = node.cached[0] if node.cached else None
        for run in runs:
            for x in gone:
                del run.values[x]
            if layer is not None and self._last[layer] is node:
                run.cache.pop(layer, None)

    def _compare(self, node: Logits) -> Figures:
        found = np.mean([self._compare_one(node, *pair) for pair in self.pairs], axis=0)
        return Figures(float(np.exp(found[0])), float(np.exp(found[1])), float(found[2]), float(found[3]))

    def _compare_one(self, node: Logits, before: Run, after: Run) -> np.ndarray[Any, Any]:
        """Cross-entropy before and after, KL divergence, and agreement: means over the tokens of a text."""
        sums, tokens = np.zeros(4), np.array(before.token_ids)
        for first in range(0, len(tokens), ROWS):
            rows = slice(first, first + ROWS)
            p, q = (_logprobs(node.reference(run, run.values[node.x][rows])) for run in (before, after))
            following = tokens[first + 1 : first + ROWS + 1]
            sums[0] -= p[np.arange(len(following)), following].sum()
            sums[1] -= q[np.arange(len(following)), following].sum()
            sums[2] += (np.exp(p) * (p - q)).sum()
            sums[3] += (p.argmax(-1) == q.argmax(-1)).sum()
        return np.asarray(sums / (len(tokens) - np.array([1, 1, 0, 0])))


def _compute(node: Node, change: Callable[[Floats], Floats] | None, run: Run) -> None:
    inputs = [run.values[x] for x in node.inputs]
    run.values[node] = node.reference(run, *(inputs if change is None else map(change, inputs))).astype(np.float32)


def _logprobs(logits: Floats) -> np.ndarray[Any, np.dtype[np.float64]]:
    shifted = logits - logits.max(-1, keepdims=True).astype(np.float64)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
