"""States of sequences that are kept, so that others can go on from there."""

from __future__ import annotations

from collections import OrderedDict


class Snapshots:
    """Which states executors keep under the numbers 0 … count - 1: each by the digest of the block that ends there.

    A number whose state has not been put yet belongs to whoever took it. The least recently used state makes room.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))
        self._numbers: OrderedDict[bytes, int] = OrderedDict()  # the least recently used first

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._numbers

    def peek(self, digest: bytes) -> int | None:
        """The number of a state, if it is there; it does not count as used."""
        return self._numbers.get(digest)

    def find(self, digest: bytes) -> int:
        """The number of a state that is there; it counts as used."""
        self._numbers.move_to_end(digest)
        return self._numbers[digest]

    def take(self, instead: bytes | None = None) -> int | None:
        """A number for another state: that of `instead`, which is of no more use, a free one, or the oldest.

        None if all have been taken.
        """
        if instead is not None and instead in self._numbers:
            return self._numbers.pop(instead)
        if self._free:
            return self._free.pop()
        return self._numbers.popitem(last=False)[1] if self._numbers else None

    def put(self, digest: bytes, number: int) -> None:
        """A state has been left under a number; if there is one like it, that one is enough."""
        if digest in self._numbers:
            self._free.append(number)
        else:
            self._numbers[digest] = number
        self._numbers.move_to_end(digest)

    def give_back(self, number: int) -> None:
        """Nothing will be left under a number that was taken."""
        self._free.append(number)

    def drop(self, digest: bytes) -> None:
        """The block before a state is gone, if there is one."""
        if digest in self._numbers:
            self._free.append(self._numbers.pop(digest))
