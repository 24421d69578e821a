"""The vocabulary: what a model may be made of, one op a class. Importing this registers all of it."""

from octavo.graph.ops import attention, experts, heads, linear, norm, output, pointwise, rope, state, table  # noqa: F401
