"""Ops that keep a state of each sequence, of a fixed size, in place of keys and values of its tokens."""

from __future__ import annotations

import numpy as np

from octavo.graph.cache import FixedState, LayerCache
from octavo.graph.node import Floats, Node, ReferencePass, Rows, ShapeError, StepShape, Weight, op
from octavo.graph.ops.pointwise import ACTIVATIONS, check_kind


@op
class CausalConv(Node):
    """A convolution of each column over a sequence's last tokens: y[t] = sum of weight[:, j] * x[t - kernel + 1 + j].

    `weight` is [columns, 1, kernel], as of a depthwise Conv1d; tokens before the first are zeros. A bias is added, and
    the activation of that is the value. The last kernel - 1 rows of a sequence are kept in `layer` of the cache.
    """

    x: Node
    weight: Weight
    bias: Weight | None
    kernel: int
    layer: int
    activation: str
    multiplies = False

    @classmethod
    def of(
        cls,
        x: Node,
        name: str,
        kernel: int,
        layer: int,
        *,
        bias: bool = False,
        activation: str = "none",
        rows: Rows | None = None,
    ) -> Node:
        """`rows` are those of the stored weight and bias that are meant."""
        weight = Weight(f"{name}.weight", (x.columns, 1, kernel), rows)
        return cls(x, weight, Weight(f"{name}.bias", (x.columns,), rows) if bias else None, kernel, layer, activation)

    def __post_init__(self) -> None:
        check_kind("causal_conv", self.activation, ("none", *ACTIVATIONS))
        if self.kernel < 2 or self.weight.shape != (self.x.columns, 1, self.kernel):
            raise ShapeError(
                f"causal_conv: weight {self.weight.shape}, kernel {self.kernel} over {self.x.columns} columns"
            )

    @property
    def cached(self) -> tuple[int, LayerCache] | None:
        return self.layer, FixedState((self.kernel - 1, self.columns))

    def reference(self, run: ReferencePass, x: Floats) -> Floats:
        weight, before = run.read(self.weight)[:, 0], np.zeros((self.kernel - 1, self.columns), np.float32)
        padded = np.concatenate([before, x])
        made = np.asarray(sum(weight[:, j] * padded[j : j + len(x)] for j in range(self.kernel)))
        if self.bias is not None:
            made = made + run.read(self.bias)
        return made if self.activation == "none" else np.asarray(ACTIVATIONS[self.activation](made), np.float32)


@op
class Delta(Node):
    """The gated delta rule (Yang et al. 2024): each head has a matrix S [key_dim, value_dim], of zeros before a
    sequence's first token, and for each token

        S <- e^g S;  S <- S + k ⊗ beta (v - Sᵀ k);  out = Sᵀ q.

    q and k are divided by their length sqrt(|x|² + eps) first, and q by sqrt(key_dim). a and b have a column for each
    head: g = -e^decay * softplus(a + dt_bias), or decay * softplus(…) where that is not `decay_is_log`, and
    beta = factor * σ(b). Fewer heads of k and q than of v serve neighbours of these; if `tiled`, every so many of them.
    S is float32, and kept in `layer` of the cache.
    """

    q: Node
    k: Node
    v: Node
    a: Node
    b: Node
    decay: Weight
    dt_bias: Weight
    key_dim: int
    layer: int
    decay_is_log: bool
    tiled: bool
    factor: float
    eps: float

    @classmethod
    def of(
        cls,
        q: Node,
        k: Node,
        v: Node,
        a: Node,
        b: Node,
        decay: str,
        dt_bias: str,
        *,
        key_dim: int,
        layer: int,
        decay_is_log: bool = True,
        tiled: bool = False,
        factor: float = 1.0,
        eps: float = 1e-6,
    ) -> Node:
        """`decay` and `dt_bias` are names of weights in full."""
        decays, biases = (Weight(name, (a.columns,)) for name in (decay, dt_bias))
        return cls(q, k, v, a, b, decays, biases, key_dim, layer, decay_is_log, tiled, factor, eps)

    def __post_init__(self) -> None:
        heads, key_heads = self.heads, self.key_heads
        if self.q.columns != self.k.columns or self.k.columns != key_heads * self.key_dim or not key_heads:
            raise ShapeError(f"delta: q and k have {self.q.columns} and {self.k.columns} columns for {self.key_dim}")
        if self.b.columns != heads or heads % key_heads or self.v.columns % heads:
            columns = ", ".join(str(x.columns) for x in (self.v, self.a, self.b))
            raise ShapeError(f"delta: v, a and b have {columns} columns for {key_heads} heads of k")

    @property
    def heads(self) -> int:
        return self.a.columns

    @property
    def key_heads(self) -> int:
        return self.k.columns // self.key_dim

    @property
    def value_dim(self) -> int:
        return self.v.columns // self.heads

    @property
    def columns(self) -> int:
        return self.v.columns

    @property
    def cached(self) -> tuple[int, LayerCache] | None:
        return self.layer, FixedState((self.heads, self.key_dim, self.value_dim))

    def flops(self, step: StepShape) -> int:
        return step.tokens * 8 * self.key_dim * self.columns

    def reference(self, run: ReferencePass, q: Floats, k: Floats, v: Floats, a: Floats, b: Floats) -> Floats:
        decay = run.read(self.decay)
        g = (-np.exp(decay) if self.decay_is_log else decay) * np.logaddexp(0, a + run.read(self.dt_bias))
        beta = np.float32(self.factor) / (1 + np.exp(-b))
        q, k = (self._for_heads(x) for x in (q, k))
        q, v = q / np.float32(self.key_dim**0.5), v.reshape(len(v), self.heads, -1)
        state = np.zeros((self.heads, self.key_dim, self.value_dim), np.float32)
        out = np.zeros_like(v)
        for t in range(len(v)):
            state *= np.exp(g[t])[:, None, None]
            change = beta[t][:, None] * (v[t] - np.einsum("hkv,hk->hv", state, k[t]))
            state += k[t][:, :, None] * change[:, None, :]
            out[t] = np.einsum("hkv,hk->hv", state, q[t])
        return out.reshape(len(v), -1)

    def _for_heads(self, x: Floats) -> Floats:
        """q or k of every head of v, divided by its length: [tokens, heads, key_dim]."""
        x = x.reshape(len(x), self.key_heads, self.key_dim)
        x = x / np.sqrt(np.sum(np.square(x), -1, keepdims=True) + np.float32(self.eps))
        group = self.heads // self.key_heads
        return np.tile(x, (1, group, 1)) if self.tiled else np.repeat(x, group, axis=1)
