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
class Given(Node):
    """A value that the host has when it comes to an attention."""

    width: int

    @property
    def columns(self) -> int:
        return self.width


@dataclass(frozen=True, eq=False)
class Hosted(Node):
    """Token ids in, the last hidden states out; a token's values take `work_columns` meanwhile."""

    host: Host
    hidden: int
    work_columns: int
    parameters: tuple[Weight, ...]

    @property
    def columns(self) -> int:
        return self.hidden

    @property
    def weights(self) -> tuple[Weight, ...]:
        return self.parameters


@dataclass(frozen=True, eq=False)
class HostedLogits(Node):
    """The logits of hidden states, as the host makes them."""

    x: Node
    host: Host
    vocab_size: int

    @property
    def columns(self) -> int:
        return self.vocab_size


def run_by_host(node: Node) -> bool:
    return isinstance(node, Given) or (isinstance(node, Attention) and isinstance(node.q, Given))
