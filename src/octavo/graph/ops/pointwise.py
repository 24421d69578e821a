"""Functions of single values."""

from __future__ import annotations

import math

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, op


@op
class Add(Node):
    """x + y."""

    x: Node
    y: Node
    keeps_float32 = True

    def reference(self, run: ReferencePass, x: Floats, y: Floats) -> Floats:
        return x + y


@op
class Glu(Node):
    """silu(gate) * up (Shazeer 2020)."""

    gate: Node
    up: Node

    def reference(self, run: ReferencePass, gate: Floats, up: Floats) -> Floats:
        return np.asarray(gate / (1 + np.exp(-gate)) * up, np.float32)


@op
class Gelu(Node):
    """x * Φ(x), with the normal distribution's own Φ (Hendrycks and Gimpel 2016)."""

    x: Node

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return np.asarray([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.ravel()]).reshape(x.shape)


@op
class Softcap(Node):
    """cap * tanh(x / cap): nearly x where that is small, and never beyond cap (Gemma Team 2024)."""

    x: Node
    cap: float

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        return np.asarray(self.cap * np.tanh(x / self.cap), np.float32)
