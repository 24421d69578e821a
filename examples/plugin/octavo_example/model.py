"""Llamas whose branches count for less."""

from octavo.graph.builder import Graph
from octavo.graph.node import Node
from octavo.models.decoder import Decoder


class CalmLlama(Decoder):
    """Llama with what attention and MLP add times `branch_scale`."""

    def project(self, g: Graph, h: Node, at: str) -> Node:
        return g.scale(super().project(g, h, at), self.config.number("branch_scale"))

    def mlp(self, g: Graph, h: Node, at: str) -> Node:
        return g.scale(super().mlp(g, h, at), self.config.number("branch_scale"))
