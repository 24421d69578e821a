"""Attention of tokens over each other, and over a source."""

from __future__ import annotations

import numpy as np

from octavo.graph.cache import PagedCache
from octavo.graph.node import Floats, Node, ReferencePass, ShapeError, StepShape, Weight, op


@op
class Attention(Node):
    """Attention of each token over its own request's tokens so far: softmax(scale * q · kᵀ) · v by heads.

    A head of q and k has `head_dim` columns, one of v `value_dim`; several heads of q share one of the `kv_heads` of k
    and v (Ainslie et al. 2023). k and v go to `layer` of the cache; without them, those of an attention before it are
    looked at. Without a layer nothing is kept: a token looks at those of the same step.
    With `window`, a token sees itself and the window - 1 tokens before it; with `chunk`, those of its own block of so
    many positions (Llama 4), and of as many blocks before that as `lookback` says. Where it is not `causal`, all tokens
    of a sequence see each other, or, with `window`, those less than so many positions before and after them.
    With `softcap`, scores become softcap * tanh(score / softcap) (Gemma Team 2024). Of `slopes`, one for each head,
    slope * distance is taken from them (ALiBi, Press et al. 2021), or, with `by_root`, slope * sqrt(distance). `biases`
    [buckets, heads] are added to them, each to those of its bucket: `buckets` are those of a key's position less the
    query's, from -reach to reach, and of farther keys as of the nearest of these (T5, Raffel et al. 2020). `sinks` are
    scores, one for each head, of a key whose value is zero (OpenAI 2025).
    """

    q: Node
    k: Node | None
    v: Node | None
    layer: int | None
    kv_heads: int
    head_dim: int
    value_dim: int
    scale: float
    window: int | None
    causal: bool
    chunk: int | None
    lookback: int
    softcap: float | None
    slopes: tuple[float, ...]
    by_root: bool
    biases: Weight | None
    buckets: tuple[int, ...]
    sinks: Weight | None

    @classmethod
    def of(
        cls,
        q: Node,
        k: Node | None,
        v: Node | None,
        *,
        layer: int | None,
        head_dim: int,
        scale: float,
        window: int | None = None,
        causal: bool = True,
        kv_heads: int | None = None,
        value_dim: int | None = None,
        chunk: int | None = None,
        lookback: int = 0,
        softcap: float | None = None,
        slopes: tuple[float, ...] = (),
        by_root: bool = False,
        biases: str | None = None,
        buckets: tuple[int, ...] = (),
        sinks: str | None = None,
    ) -> Node:
        """`kv_heads` is to be said where there is no k; `value_dim` where it is not `head_dim`."""
        if kv_heads is None:
            kv_heads = k.columns // head_dim if k is not None else 0
        heads = q.columns // head_dim
        of_sinks = None if sinks is None else Weight(sinks, (heads,))
        of_biases = None if biases is None else Weight(biases, (1 + max(buckets), heads))
        sizes = layer, kv_heads, head_dim, value_dim or head_dim
        seen, by_distance = (window, causal, chunk, lookback), (slopes, by_root, of_biases, buckets)
        return cls(q, k, v, *sizes, scale, *seen, softcap, *by_distance, of_sinks)

    def __post_init__(self) -> None:
        if (self.k is None) != (self.v is None) or (self.k is None and self.layer is None):
            raise ShapeError("attention: k and v must both be given, or both be those of another layer")
        k_columns = self.kv_heads * self.head_dim if self.k is None else self.k.columns
        _check_heads("attention", self.q.columns, k_columns, self.head_dim)
        if self.v is not None and self.v.columns != self.kv_heads * self.value_dim:
            k_has = f"k and v have {k_columns} and {self.v.columns} columns"
            raise ShapeError(f"attention: {k_has}, which are no {self.kv_heads} heads of {self.value_dim}")
        if self.layer is not None and not self.causal:
            raise ShapeError("attention: only causal attention can go on from what is kept; leave out the layer")
        if self.slopes and len(self.slopes) != self.heads:
            raise ShapeError(f"attention: {len(self.slopes)} slopes for {self.heads} heads")
        if self.biases is not None and (len(self.buckets) % 2 == 0 or min(self.buckets) < 0):
            raise ShapeError(f"attention: {len(self.buckets)} buckets are not of as many distances on either side")
        if not self.causal and self.chunk:
            raise ShapeError("attention: a chunk looks back, and so wants causal attention")
        if self.window and self.chunk:
            raise ShapeError("attention: a window and a chunk exclude each other")

    @property
    def heads(self) -> int:
        return self.q.columns // self.head_dim

    @property
    def columns(self) -> int:
        return self.heads * self.value_dim

    @property
    def cached(self) -> tuple[int, PagedCache] | None:
        if self.layer is None:
            return None
        reach = self.chunk * (1 + self.lookback) if self.chunk else self.window
        return self.layer, PagedCache(self.kv_heads, self.head_dim, self.value_dim, reach)

    def flops(self, step: StepShape) -> int:
        pairs = sum(self._pairs(count, total) for count, total in step.contexts)
        return pairs * 2 * self.heads * (self.head_dim + self.value_dim)

    def cache_reads(self, step: StepShape) -> int:
        seen = sum(self._pairs(1, total) for _, total in step.contexts)
        return seen * self.kv_heads * (self.head_dim + self.value_dim)

    def _pairs(self, count: int, total: int) -> int:
        """Pairs of query and key: each of the last `count` of `total` tokens sees those up to itself, or its window."""
        if not self.causal:
            return count * min(total, 2 * self.window - 1 if self.window else total)
        if self.chunk:
            first, last = (_pairs_of_chunks(tokens, self.chunk, self.lookback) for tokens in (total - count, total))
            return last - first
        window = self.window or total
        first = total - count + 1
        full = max(0, total - max(first, window) + 1)  # queries that see a whole window
        ramp = count - full
        return full * window + ramp * first + ramp * (ramp - 1) // 2

    def reference(self, run: ReferencePass, q: Floats, k: Floats | None = None, v: Floats | None = None) -> Floats:
        if k is None or v is None:
            assert self.layer is not None
            k, v = run.cache[self.layer]
        elif self.layer is not None:
            run.cache[self.layer] = k, v
        back = np.arange(len(q))[:, None] - np.arange(len(k))[None, :]  # how far a key is behind a query
        hidden = (back if self.causal else abs(back)) >= (self.window or len(k))
        if self.causal:
            hidden |= back < 0
        if self.chunk:
            hidden |= back > np.arange(len(q))[:, None] % self.chunk + self.lookback * self.chunk
        sinks, biases = (None if weight is None else run.read(weight) for weight in (self.sinks, self.biases))
        return attend(self, q, k, v, hidden, sinks, biases)


@op
class StoreSource(Node):
    """Puts k and v of a source's positions into `layer` of the cache, for the cross attention of that layer."""

    k: Node
    v: Node
    layer: int
    head_dim: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_heads("store_source", self.k.columns, self.k.columns, self.head_dim)

    @property
    def columns(self) -> int:
        return 0

    @property
    def kv_heads(self) -> int:
        return self.k.columns // self.head_dim

    @property
    def cached(self) -> tuple[int, PagedCache] | None:
        return self.layer, PagedCache(self.kv_heads, self.head_dim, self.head_dim)

    def reference(self, run: ReferencePass, k: Floats, v: Floats) -> Floats:
        run.sources[self.layer] = k, v
        return np.zeros((len(k), 0), np.float32)


@op
class CrossAttention(Node):
    """Attention of each token over all positions of its request's source, as `StoreSource` left them."""

    q: Node
    layer: int
    kv_heads: int
    head_dim: int
    scale: float

    def __post_init__(self) -> None:
        _check_heads("cross_attention", self.q.columns, self.kv_heads * self.head_dim, self.head_dim)

    @property
    def heads(self) -> int:
        return self.q.columns // self.head_dim

    @property
    def cached(self) -> tuple[int, PagedCache] | None:
        return self.layer, PagedCache(self.kv_heads, self.head_dim, self.head_dim)

    def flops(self, step: StepShape) -> int:
        return step.tokens * step.source_positions * 4 * self.heads * self.head_dim

    def cache_reads(self, step: StepShape) -> int:
        return len(step.contexts) * step.source_positions * 2 * self.kv_heads * self.head_dim

    def reference(self, run: ReferencePass, q: Floats) -> Floats:
        k, v = run.sources[self.layer]
        return attend(self, q, k, v, np.zeros((len(q), len(k)), bool))


def attend(
    node: Attention | CrossAttention,
    q: Floats,
    k: Floats,
    v: Floats,
    hidden: np.ndarray,
    sinks: Floats | None = None,
    biases: Floats | None = None,
) -> Floats:
    """Attention by heads: rows of q, k and v are tokens; `hidden` [queries, keys] are pairs that do not meet."""
    group = node.heads // node.kv_heads
    queries = q.reshape(len(q), node.heads, -1).swapaxes(0, 1)
    keys, values = (np.repeat(x.reshape(len(x), node.kv_heads, -1).swapaxes(0, 1), group, axis=0) for x in (k, v))
    scores = node.scale * (queries @ keys.swapaxes(1, 2))
    if isinstance(node, Attention) and node.softcap:
        scores = node.softcap * np.tanh(scores / node.softcap)
    ahead = np.arange(len(k)) - np.arange(len(q))[:, None]  # how far a key is before a query
    if isinstance(node, Attention) and node.slopes:
        distances = np.sqrt(abs(ahead)) if node.by_root else abs(ahead)
        scores = scores - np.array(node.slopes)[:, None, None] * distances
    if isinstance(node, Attention) and biases is not None:
        reach = len(node.buckets) // 2
        buckets = np.array(node.buckets)[np.clip(ahead, -reach, reach) + reach]
        scores = scores + biases[buckets].transpose(2, 0, 1)
    scores = np.where(hidden, -np.inf, scores)
    sink = np.full((node.heads, 1, 1), -np.inf) if sinks is None else sinks[:, None, None]
    peak = np.maximum(scores.max(axis=-1, keepdims=True), sink)
    weights = np.exp(scores - peak)
    weights /= weights.sum(axis=-1, keepdims=True) + np.exp(sink - peak)
    return np.asarray((weights @ values).swapaxes(0, 1).reshape(len(q), -1), np.float32)


def _pairs_of_chunks(tokens: int, chunk: int, lookback: int) -> int:
    """Pairs of query and key of the first `tokens` tokens, each of which sees its own chunk and those before that."""
    whole, rest = divmod(tokens, chunk)
    own = (whole * chunk * (chunk + 1) + rest * (rest + 1)) // 2
    chunks_before = sum(min(i, lookback) for i in range(whole)) * chunk + min(whole, lookback) * rest
    return own + chunks_before * chunk


def _check_heads(op: str, q_columns: int, kv_columns: int, head_dim: int) -> None:
    heads, kv_heads = q_columns // head_dim, kv_columns // head_dim
    if q_columns != heads * head_dim or kv_columns != kv_heads * head_dim:
        raise ShapeError(f"{op}: {q_columns} and {kv_columns} columns are no whole heads of {head_dim}")
    if not kv_heads or heads % kv_heads:
        raise ShapeError(f"{op}: {heads} heads are no multiple of {kv_heads} KV heads")
