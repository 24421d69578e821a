"""The vocabulary of ops, graphs of them, and what they cost."""

from octavo.graph.builder import Graph
from octavo.graph.node import Node, Rows, Weight

__all__ = ["Graph", "Node", "Rows", "Weight"]
