"""Where values come from: rows of tables, and sources that encoders read."""

from __future__ import annotations

import numpy as np

from octavo.graph.node import Floats, Node, ReferencePass, Weight, op


@op
class Embed(Node):
    """Rows of `weight` [vocabulary, columns], chosen by the step's token ids."""

    weight: Weight
    keeps_float32 = True
    reads_all_weights = False

    @classmethod
    def of(cls, name: str, rows: int, columns: int) -> Node:
        return cls(Weight(f"{name}.weight", (rows, columns)))

    @property
    def columns(self) -> int:
        return self.weight.shape[1]

    def reference(self, run: ReferencePass) -> Floats:
        return run.read(self.weight)[list(run.token_ids)]


@op
class PositionEmbed(Embed):
    """Rows of `weight` [offset + positions, columns], chosen by the tokens' positions: the first is row `offset`."""

    offset: int = 0

    @classmethod
    def of(cls, name: str, rows: int, columns: int, offset: int = 0) -> Node:
        return cls(Weight(f"{name}.weight", (offset + rows, columns)), offset)

    def reference(self, run: ReferencePass) -> Floats:
        table = run.read(self.weight)[self.offset :]
        return table[: len(run.token_ids) or len(table)]


@op
class SegmentEmbed(Embed):
    """Row 1 of `weight` [rows, columns] for the tokens of a second text, row 0 for all others: BERT's segments.

    A table of one row has that for all.
    """

    def reference(self, run: ReferencePass) -> Floats:
        second = run.second_start or len(run.token_ids)
        is_second = np.arange(len(run.token_ids)) >= second
        return np.asarray(run.read(self.weight)[np.minimum(is_second, len(run.read(self.weight)) - 1)], np.float32)


@op
class Features(Node):
    """The source that an encoder reads: `rows` rows of `width` columns for each of its positions."""

    width: int
    rows: int

    @property
    def columns(self) -> int:
        return self.width

    @property
    def rows_per_token(self) -> int:
        return self.rows

    def reference(self, run: ReferencePass) -> Floats:
        assert run.features is not None
        return run.features
