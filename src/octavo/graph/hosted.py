"""Graphs of models that another library computes, but for their attention and what comes after their logits.

Such a graph has one `Hosted` node, which stands for all layers; an `Attention` for each of them, over `Given` values;
and `HostedLogits`. The attentions are run by the host, when it comes to them, and not as ops of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from octavo.graph.node import Node, Weight
from octavo.graph.ops.attention import Attention


class Host(Protocol):
    """What computes a model's layers, on an executor's device."""

    def load(self, device: Any) -> None:
        """Loads the weights."""

    def hidden(self, device: Any, step: Any) -> Any:
        """The last hidden states of a step: [tokens, hidden]."""

    def logits(self, hidden: Any) -> Any:
        """[rows, vocabulary]"""


@dataclass(frozen=True, eq=False)
class _OfHost(Node):
    """A value that the host makes, with `width` columns."""

    width: int

    @property
    def columns(self) -> int:
        return self.width


class Given(_OfHost):
    """A value that the host has when it comes to an attention."""


@dataclass(frozen=True, eq=False)
class Hosted(_OfHost):
    """Token ids in, the last hidden states out; a token's values take `work_columns` meanwhile."""

    host: Host
    work_columns: int
    parameters: tuple[Weight, ...]


@dataclass(frozen=True, eq=False)
class HostedLogits(_OfHost):
    """The logits of hidden states, as the host makes them."""

    host: Host
    x: Node


def run_by_host(node: Node) -> bool:
    return isinstance(node, Given) or (isinstance(node, Attention) and isinstance(node.q, Given))
