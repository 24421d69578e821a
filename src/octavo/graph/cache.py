"""What the layers of a model keep of the tokens that they have seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


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


def layers_of(nodes: Iterable[Any]) -> dict[int, PagedCache]:
    """The layers of the cache that nodes of graphs read and write, by number.

    Nodes may share a layer: its window is then the widest. Raises ValueError where they disagree on its sizes.
    """
    layers: dict[int, PagedCache] = {}
    for node in nodes:
        if node.cached is None:
            continue
        layer, spec = node.cached
        known = layers.get(layer, spec)
        if replace(known, window=None) != replace(spec, window=None):
            raise ValueError(f"{node.name()}: layer {layer} of the cache is {known}, not {spec}")
        windows = (known.window, spec.window)
        layers[layer] = replace(spec, window=None if None in windows else max(windows))
    return dict(sorted(layers.items()))


def window_of(layers: Iterable[PagedCache]) -> int | None:
    """How far back any layer looks: blocks that lie before that are of no more use. None if one looks at everything."""
    windows = [layer.window for layer in layers]
    return max(windows) if windows and None not in windows else None  # type: ignore[type-var]
