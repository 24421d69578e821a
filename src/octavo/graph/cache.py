"""What the layers of a model keep of the tokens that they have seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class PagedCache:
    """A layer's keys and values, in pages that sequences share: `kv_heads` keys and as many values for each token.

    With `window`, no later token looks further back than that many positions, itself included.
    """

    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None

    @property
    def values_per_token(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class FixedState:
    """float32 values of `shape` for each sequence, however long it is: of convolutions and recurrences.

    It can't be shared by sequences that begin alike, nor go back; it takes no room in pages.
    """

    shape: tuple[int, ...]
    kv_heads: ClassVar[int] = 0
    key_dim: ClassVar[int] = 0
    value_dim: ClassVar[int] = 0
    values_per_token: ClassVar[int] = 0
    window: ClassVar[int] = 0

    @property
    def values(self) -> int:
        return math.prod(self.shape)


LayerCache = PagedCache | FixedState


def layers_of(nodes: Iterable[Any]) -> dict[int, LayerCache]:
    """The layers of the cache that nodes of graphs read and write, by number.

    Nodes may share pages: the window is then the widest. Raises ValueError where they disagree on what a layer is.
    """
    layers: dict[int, LayerCache] = {}
    for node in nodes:
        if node.cached is None:
            continue
        layer, spec = node.cached
        known = layers.setdefault(layer, spec)
        if known != spec and isinstance(known, PagedCache) and isinstance(spec, PagedCache):
            widest = None if None in (known.window, spec.window) else max(known.window or 0, spec.window or 0)
            known, spec = replace(known, window=widest), replace(spec, window=widest)
        if known != spec:
            raise ValueError(f"{node.name()}: layer {layer} of the cache is {known}, not {spec}")
        layers[layer] = spec
    return dict(sorted(layers.items()))


def window_of(layers: Iterable[LayerCache]) -> int | None:
    """How far back any layer looks: blocks that lie before that are of no more use. None if one looks at everything."""
    windows = [layer.window for layer in layers]
    return max(windows) if windows and None not in windows else None  # type: ignore[type-var]


def state_values(layers: Iterable[LayerCache]) -> int:
    """Values that all layers keep of a sequence beside its pages; 0 if its pages are all there is."""
    return sum(layer.values for layer in layers if isinstance(layer, FixedState))
