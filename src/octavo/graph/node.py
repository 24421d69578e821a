"""What a graph is made of: a node is a value that an op computes from other values and from weights.

A node's value has one row per token of a step (all requests flattened into one ragged axis) and `columns` columns. An
encoder has a graph of its own, which reads a source (30 s of sound, say): its tokens are the positions of that source,
and its first values may have several rows for each of them.
Nothing here names a device, a data type of activations, or a memory layout: that is the executor's choice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

import numpy as np

from octavo.graph.cache import LayerCache

Floats = np.ndarray[Any, np.dtype[np.float32]]
T = TypeVar("T")


class ShapeError(ValueError):
    """An op of a model declaration got inputs that do not fit together."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a stored matrix: seen as [blocks, block_rows, columns], rows [start, stop) of every block."""

    blocks: int
    block_rows: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight by the name that the checkpoint has: (rows, columns), (columns,) or (rows, columns, kernel).

    It may be a part of what is stored under that name: some `rows` of it, the matrix of one `expert` of a stack, or of
    matrices one below the other, or, where the checkpoint has [columns, rows], `transposed`. Rows may be `normalised`:
    made as long as 1.
    """

    name: str
    shape: tuple[int, ...]
    rows: Rows | None = None
    transposed: bool = False
    expert: int | None = None
    normalised: bool = False

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


class ReferencePass(Protocol):
    """What the references of ops may look at besides their inputs: one sequence, or one source, from its beginning."""

    token_ids: Sequence[int]
    features: Floats | None
    cache: dict[int, tuple[Floats, Floats]]  # keys and values by layer, [tokens, columns]
    sources: dict[int, tuple[Floats, Floats]]  # those of a source, [positions, columns]
    second_start: int  # the position where a second text begins; 0: there is none

    def read(self, weight: Weight) -> Floats:
        """The values of a weight."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """How much a step computes: for each sequence, (tokens computed, tokens in its cache afterwards).

    `source_positions` are those that cross attention of each sequence sees.
    """

    contexts: Sequence[tuple[int, int]]
    logit_rows: int
    source_positions: int = 0

    @property
    def tokens(self) -> int:
        return sum(count for count, _ in self.contexts)


@dataclass(frozen=True, eq=False)
class Node:
    """A value of the graph: [tokens * rows_per_token, columns]. Subclasses are ops, see `op`.

    Their fields say everything else: those that are nodes are its inputs, those that are weights its weights, the
    others its parameters. `__post_init__` raises ShapeError where they do not fit together.
    """

    keeps_float32: ClassVar[bool] = False  # its value is part of the residual stream, which no executor rounds
    reads_all_weights: ClassVar[bool] = True  # in every step; not so a table of which each token takes a row
    multiplies: ClassVar[bool] = True  # matrices among its weights by rows, so that they are packed for that

    def __post_init__(self) -> None:
        """The shape rule: inputs are equally wide, unless an op has another rule."""
        if len({x.columns for x in self.inputs}) > 1:
            sizes = " and ".join(str(x.columns) for x in self.inputs)
            raise ShapeError(f"{self.name()}: inputs have {sizes} columns")

    @classmethod
    def of(cls, *args: Any, **options: Any) -> Node:
        """Makes the node from what a model declaration says: names of weights in place of weights."""
        return cls(*args, **options)

    @classmethod
    @cache
    def name(cls) -> str:
        """The op's name: the method of Graph that adds it, and the native op that computes it."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @classmethod
    @cache
    def _field_names(cls) -> list[str]:
        return [field.name for field in fields(cls)]

    @cached_property
    def columns(self) -> int:
        """One for each row of its first matrix, or those of its first input."""
        matrices = [weight for weight in self.weights if len(weight.shape) > 1]
        return matrices[0].shape[0] if matrices else self.inputs[0].columns

    @cached_property
    def rows_per_token(self) -> int:
        return self.inputs[0].rows_per_token if self.inputs else 1

    @cached_property
    def named_inputs(self) -> dict[str, Node]:
        return self._fields(Node)

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(self.named_inputs.values())

    @cached_property
    def named_weights(self) -> dict[str, Weight]:
        return self._fields(Weight)

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """All of them, also those of fields that have one for each expert."""
        found = (one if isinstance(one, tuple) else (one,) for one in self._fields(Weight | tuple).values())
        return tuple(weight for one in found for weight in one if isinstance(weight, Weight))

    @property
    def params(self) -> dict[str, Any]:
        """Numbers, flags and words."""
        return self._fields(int | float | str)

    @property
    def cached(self) -> tuple[int, LayerCache] | None:
        """The layer of the KV cache that it reads or writes, and what that has to be."""
        return None

    def flops(self, step: StepShape) -> int:
        """What it computes in a step; a multiply-add counts as two."""
        if not self.reads_all_weights:
            return 0
        rows = step.tokens * self.rows_per_token
        return 2 * rows * sum(weight.size for weight in self.weights if len(weight.shape) > 1)

    def used_share(self, tokens: float) -> float:
        """How much of its weights a step of so many tokens reads, where tokens choose from them."""
        return 1.0

    def cache_reads(self, step: StepShape) -> int:
        """Keys and values that it reads from the cache in a step."""
        return 0

    def reference(self, run: ReferencePass, *inputs: Any) -> Floats:
        """The value, float32 [rows, columns], computed in numpy as plainly as possible."""
        raise NotImplementedError

    def _fields(self, kind: Any) -> dict[str, Any]:
        values = ((name, getattr(self, name)) for name in self._field_names())
        return {name: value for name, value in values if isinstance(value, kind)}


OPS: dict[str, type[Node]] = {}  # all of the vocabulary, by name


@dataclass_transform(frozen_default=True, eq_default=False)
def op(cls: type[T]) -> type[T]:
    """Makes a subclass of Node an op of the vocabulary: `Graph` has a method for it from then on."""
    made = dataclass(frozen=True, eq=False)(cls)
    assert issubclass(made, Node)
    OPS[made.name()] = made
    return made
