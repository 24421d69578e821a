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

    It takes no room in pages. It can't go back, so sequences that begin alike share it where a copy of it was kept.
    """

    shape: tuple[int, ...]
    kv_heads: ClassVar[int] = 0
    key_dim: ClassVar[int] = 0
    value_dim: ClassVar[int] = 0
    values_per_token: ClassVar[int] = 0
    window: ClassVar[int] = 0

    def values(self, pad: int = 1) -> int:
        """How many they are where the last axis is padded to a multiple of `pad`."""
        return math.prod(self.shape[:-1]) * -(-self.shape[-1] // pad) * pad


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


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """Blocks first … first + count - 1: those of the layers that look back `window` tokens, or, with None, at all."""

    first: int
    count: int
    window: int | None = None


def by_window(layers: Iterable[LayerCache]) -> dict[int | None, list[LayerCache]]:
    """The groups of layers that have their blocks in common: those of one window. The widest comes first.

    A block of a group is of no more use once its window has passed it. A model without pages has one empty group, of
    which no block is of use.
    """
    groups: dict[int | None, list[LayerCache]] = {}
    for layer in layers:
        if isinstance(layer, PagedCache):
            groups.setdefault(layer.window, []).append(layer)
    widths = sorted(groups, key=lambda window: math.inf if window is None else window, reverse=True)
    return {window: groups[window] for window in widths} or {0: []}


def state_bytes(layers: Iterable[LayerCache], pad: int = 1) -> int:
    """Bytes that all layers keep of a sequence beside its pages; 0 if its pages are all there is."""
    return sum(4 * layer.values(pad) for layer in layers if isinstance(layer, FixedState))
