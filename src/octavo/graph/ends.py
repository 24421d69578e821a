"""The same graph with another end, or with tokens that see each other in both directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.graph.ops.attention import Attention
from octavo.graph.ops.linear import Logits


def with_hidden_states(graph: Graph) -> Graph:
    """A graph that ends in what the logits of `graph` are made of. Raises ValueError where it has none."""
    if graph.output == "hidden_states":
        return graph
    *nodes, last = graph.nodes
    if not isinstance(last, Logits):
        raise ValueError(f"a graph that ends in {last.name()} has no hidden states to end in")
    g = Graph()
    for node in nodes:
        g.append(node)
    g.hidden_states(last.x)
    return g


def both_ways(graph: Graph) -> Graph:
    """A graph whose attention is not causal, and keeps nothing of a text; a window is as wide to either side.

    Raises ShapeError where attention looks at another layer's keys, or at chunks.
    """
    g, made = Graph(), dict[Node, Node]()
    for node in graph.nodes:
        changes: dict[str, Any] = {name: made[x] for name, x in node.named_inputs.items()}
        if isinstance(node, Attention):
            changes |= {"layer": None, "causal": False}
        made[node] = g.append(replace(node, **changes))
    return g
