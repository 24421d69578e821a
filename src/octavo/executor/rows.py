"""What executors keep of sequences between steps, beside the KV cache, has a place by the sequence's id."""

from __future__ import annotations

from collections.abc import Iterable


class Rows:
    """Numbers below `count`: a sequence has one from its first step until it has ended."""

    def __init__(self, count: int):
        self._row_of: dict[int, int] = {}
        self._free = list(range(count))

    def row_of(self, sequence: int) -> int:
        """The number of the sequence of this id, from now on if it has none."""
        if sequence not in self._row_of:
            self._row_of[sequence] = self._free.pop()
        return self._row_of[sequence]

    def forked(self, forks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """(from, to) for sequences that go on from where others, which have a number, are: pairs of ids."""
        return [(self.row_of(parent), self.row_of(child)) for parent, child in forks if parent in self._row_of]

    def drop(self, ended: Iterable[int]) -> None:
        """Takes numbers back, where there are any."""
        self._free += [self._row_of.pop(sequence) for sequence in ended if sequence in self._row_of]

    def clear(self) -> None:
        self.drop(list(self._row_of))
