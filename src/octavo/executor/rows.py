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

    def change(self, forks: Iterable[tuple[int, int]], ended: Iterable[int]) -> list[tuple[int, int]]:
        """Takes numbers back of those that have ended; gives them to those that go on from where others are.

        Both are ids, `forks` pairs of them: (from, to). Returns the numbers to copy between. The last that goes on from
        where one has ended has its number, so that there are never more than sequences go on.
        """
        gone, origins = set(ended), dict[int, int]()
        for parent, child in forks:
            origins[child] = origins.get(parent, parent)
        pairs = [(parent, child) for child, parent in origins.items() if parent in self._row_of and child not in gone]
        last = dict(pairs)  # of each parent
        self.drop(gone - last.keys())
        copies = []
        for parent, child in pairs:
            if parent in gone and last[parent] == child:
                self._row_of[child] = self._row_of.pop(parent)
            else:
                copies.append((self._row_of[parent], self.row_of(child)))
        return copies

    def drop(self, ended: Iterable[int]) -> None:
        """Takes numbers back, where there are any."""
        self._free += [self._row_of.pop(sequence) for sequence in ended if sequence in self._row_of]

    def clear(self) -> None:
        self.drop(list(self._row_of))
