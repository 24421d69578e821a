"""The builder: a model declaration calls it once, op by op, and it keeps the nodes in order."""

from __future__ import annotations

from collections.abc import Callable

import octavo.graph.ops  # noqa: F401  (registers the vocabulary)
from octavo.graph.cache import LayerCache, layers_of
from octavo.graph.node import OPS, Node, ShapeError, Weight


class Graph:
    """A model as data: nodes in the order they are computed, down to its output.

    That is the last node: logits, hidden states, or what an encoder stores.

    It has a method for every op: `g.rms_norm(x, name, eps)` adds what `RMSNorm.of(x, name, eps)` makes, and raises
    ShapeError where the inputs do not fit together. Weights are named as the checkpoint names them, without the
    ".weight" or ".bias" at the end.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: set[int] = set()

    def __getattr__(self, name: str) -> Callable[..., Node]:
        if name not in OPS:
            raise AttributeError(f"there is no op {name}; there are {', '.join(sorted(OPS))}")
        return lambda *args, **options: self.append(OPS[name].of(*args, **options))

    def append(self, node: Node) -> Node:
        """Adds a node that was made without a method of the builder."""
        if missing := [x for x in node.inputs if id(x) not in self._known]:
            raise ShapeError(f"{node.name()}: an input is of another graph: {missing[0].name()}")
        self.nodes.append(node)
        node.columns, node.rows_per_token  # noqa: B018  (known from here on: a chain of nodes may be long)
        self._known.add(id(node))
        return node

    @property
    def weights(self) -> list[Weight]:
        """All weights in the order of their first use, each once."""
        return list(dict.fromkeys(weight for node in self.nodes for weight in node.weights))

    @property
    def output(self) -> str:
        """What steps give of it: "logits" or "hidden_states", or, of an encoder, "store_source"."""
        return self.nodes[-1].name().removeprefix("hosted_")

    @property
    def keeps_nothing(self) -> bool:
        """Whether an attention has no layer of the cache: then a text is computed whole."""
        return any(getattr(node, "layer", 0) is None for node in self.nodes)

    @property
    def layers(self) -> dict[int, LayerCache]:
        """What it keeps of the tokens that it has seen, by layer."""
        return layers_of(self.nodes)

    def uses(self) -> dict[Node, list[Node]]:
        """The nodes that read each node's value, one entry for each time."""
        readers: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for x in node.inputs:
                readers[x].append(node)
        return readers
