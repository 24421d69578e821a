"""What a graph ends in whose values are wanted themselves."""

from __future__ import annotations

from octavo.graph.node import Floats, Node, ReferencePass, op


@op
class HiddenStates(Node):
    """x in float32, for those tokens whose rows are asked for."""

    x: Node
    keeps_float32 = True

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return x
