"""The blocks of one group of layers: whose they are, which are free, and which full ones can be found again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from octavo.graph.cache import BlockGroup


class BlockPool:
    """Hands out the blocks of a group.

    A block is owned by every sequence that has it in its table. Only a sole owner writes to it, and nobody
    once it is in the prefix cache. A cached block without owners is idle: it keeps its contents until no
    other block is free; `evicted` is then called with its digest.
    """

    def __init__(self, group: BlockGroup, block_size: int, evicted: Callable[[bytes], None]) -> None:
        self.group = group
        self.block_size = block_size
        self._evicted = evicted
        blocks = range(group.first, group.first + group.count)
        self._num_owners = dict.fromkeys(blocks, 0)
        self._free = list(reversed(blocks))  # a stack: memory touched last is used first
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached blocks without owners, oldest first
        self._block_of: dict[bytes, int] = {}  # the prefix cache, and its inverse
        self._digest_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be had: the free and the idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def usage(self) -> float:
        """Share of the blocks that have owners, 0 to 1."""
        return 1 - self.num_free / self.group.count

    def unowned(self) -> tuple[list[int], int]:
        """The free blocks, and the number of idle ones."""
        return self._free.copy(), len(self._idle)

    def num_passed(self, num_tokens: int) -> int:
        """How many of the first blocks of so many tokens the window has passed when the next token comes."""
        window = self.group.window
        if window is None:
            return 0
        last = -(-num_tokens // self.block_size) - 1  # one always stays, for the table to name
        return max(0, min((num_tokens + 1 - window) // self.block_size, last))

    def __contains__(self, digest: bytes) -> bool:
        """Whether there is a full block of these contents."""
        return digest in self._block_of

    def find(self, digest: bytes) -> int:
        """The cached block of these contents. Whoever asks owns it, too."""
        block = self._block_of[digest]
        self.share(block)
        return block

    def peek(self, digest: bytes) -> int | None:
        """The cached block of these contents, if there is one; nobody owns it for that."""
        return self._block_of.get(digest)

    def put(self, digest: bytes, block: int) -> bool:
        """Puts a block that is full into the prefix cache; False, and does nothing, if there is one like it."""
        if digest in self._block_of:
            return False
        self._block_of[digest] = block
        self._digest_of[block] = digest
        return True

    def is_writable(self, block: int) -> bool:
        """Whether its only owner may write to a block."""
        return self._num_owners[block] == 1 and block not in self._digest_of

    def take(self) -> int:
        """A block for a new owner; there must be one that can be had."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            digest = self._digest_of.pop(block)
            del self._block_of[digest]
            self._evicted(digest)
        self._num_owners[block] = 1
        return block

    def share(self, block: int) -> None:
        """Adds an owner."""
        if self._num_owners[block] == 0:
            del self._idle[block]
        self._num_owners[block] += 1

    def leave(self, block: int) -> None:
        """Takes an owner away."""
        self._num_owners[block] -= 1
        if self._num_owners[block] == 0:
            if block in self._digest_of:
                self._idle[block] = None
            else:
                self._free.append(block)
