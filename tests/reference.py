"""A plain numpy interpreter of the graph, by the references of its nodes: what every executor is tested against.

One sequence, or one source, all of it at once, in float32: no cache, no batch, no fusion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from octavo.graph.builder import Graph
from octavo.graph.node import Floats, Node, Weight
from octavo.weights.tensor import StoredTensor

Sources = dict[int, tuple[Floats, Floats]]  # keys and values by layer, [positions, columns]


@dataclass
class _Pass:
    """See `octavo.graph.node.ReferencePass`."""

    tensors: Mapping[str, StoredTensor]
    token_ids: Sequence[int] = ()
    features: Floats | None = None
    cache: Sources = field(default_factory=dict)
    sources: Sources = field(default_factory=dict)
    second_start: int = 0

    def read(self, weight: Weight) -> Floats:
        return self.tensors[weight.name].part(weight).values()

    def values(self, graph: Graph) -> dict[Node, Floats]:
        found: dict[Node, Floats] = {}
        for node in graph.nodes:
            inputs = [found[x] for x in node.inputs]
            found[node] = node.reference(self, *inputs).astype("float32")
        return found


def reference_logits(
    graph: Graph,
    tensors: Mapping[str, StoredTensor],
    token_ids: Sequence[int],
    sources: Sources | None = None,
    second_start: int = 0,
) -> Floats:
    """The logits after every token: float32 [tokens, vocabulary]."""
    return _Pass(tensors, token_ids, sources=sources or {}, second_start=second_start).values(graph)[graph.nodes[-1]]


def reference_sources(graph: Graph, tensors: Mapping[str, StoredTensor], features: Floats) -> Sources:
    """What an encoder leaves for cross attention; `features` are float32 [rows, columns]."""
    whole = _Pass(tensors, features=features)
    whole.values(graph)
    return whole.sources
