"""Which layout each weight gets: that of its stored numbers, or one that it is quantized to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.errors import ConfigError
from octavo.graph.builder import Graph
from octavo.graph.node import Node, Weight
from octavo.graph.ops.experts import Experts, Route
from octavo.graph.ops.linear import Linear, Logits
from octavo.graph.ops.table import Embed, PositionEmbed, SegmentEmbed
from octavo.weights.layout import PLAIN
from octavo.weights.tensor import StoredTensor


def layout_at_load(quantization: str, columns: int) -> str:
    """The layout that weights are quantized to while they are loaded."""
    if quantization == "fp8":
        return next(f"e4m3_g{group}" for group in (128, 64, 32) if columns % group == 0 or group == 32)
    return {"int8": "int8", "int4": "uint4_g32"}[quantization]


def choose_layouts(
    graph: Graph, tensors: Mapping[str, StoredTensor], dtype: str, quantization: str | None = None
) -> dict[str, str]:
    """The layouts of weights that are not packed as plain numbers of `dtype`, by the weights' names.

    Plain ones are quantized if there is a `quantization`, one of `config.AT_LOAD`. In float32 all others are plain: so
    they are seen without any error but their own. Raises ConfigError where what is quantized is to be quantized again.
    """
    found: dict[str, str] = {}
    plain = {layout.name for layout in PLAIN.values()}
    unordered = _unordered(graph, tensors)
    kept = {node.logits for node in graph.nodes if isinstance(node, Route)}  # what they choose must not change
    for node, weight in _matrices(graph):
        tensor = tensors[weight.name]
        columns = weight.size // weight.shape[0]
        wanted = None if quantization is None or node in kept else layout_at_load(quantization, columns)
        if tensor.format in plain:
            if wanted and not isinstance(node, PositionEmbed | SegmentEmbed):
                found[tensor.name] = wanted
            continue
        layout = _native.layout_of_format(tensor.format)
        if wanted and layout != wanted:
            raise ConfigError("quantization", quantization, f"{tensor.name} is quantized already, in {tensor.format}")
        if layout is not None and dtype != "float32" and tensor.name not in unordered:
            found[tensor.name] = layout
    return found


def _matrices(graph: Graph) -> Iterator[tuple[Node, Weight]]:
    """Those that are packed."""
    for node in graph.nodes:
        if isinstance(node, Linear | Logits | Embed | Experts):
            yield from ((node, weight) for weight in node.weights if len(weight.shape) > 1)


def _unordered(graph: Graph, tensors: Mapping[str, StoredTensor]) -> set[str]:
    """Weights whose stored columns have an order of their own, but must be packed in the graph's, as plain numbers.

    They are tables, those of experts, and those that would be packed together with others in another order.
    """
    if all(tensor.column_order is None for tensor in tensors.values()):
        return set()
    found = {weight.name for node, weight in _matrices(graph) if isinstance(node, Embed | Experts)}
    for readers in graph.uses().values():
        names = {node.weight.name for node in readers if isinstance(node, Linear | Logits)}
        orders = {(tensors[name].format, _bytes_of(tensors[name].column_order)) for name in names}
        if len(orders) > len({format for format, _ in orders}):
            found |= names
    return {name for name in found if tensors[name].column_order is not None}


def _bytes_of(order: NDArray[np.int32] | None) -> bytes | None:
    return None if order is None else order.tobytes()
