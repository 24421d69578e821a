"""The same graph with another end."""

from __future__ import annotations

from octavo.graph.builder import Graph
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
