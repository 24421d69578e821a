"""The KV cache as numbers: which block belongs to whom, and which full blocks can be shared."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from struct import Struct

from octavo.request import UNKNOWN_TOKEN, CacheScope, Chunk, Sequence
from octavo.scheduler.snapshots import Snapshots


def most_held(num_tokens: int, chunk: int, block_size: int, window: int | None) -> int:
    """Blocks that a sequence of so many tokens has at a time, at most, if `chunk` are computed at once."""
    if window is not None:
        num_tokens = min(num_tokens, window + chunk + block_size)
    return -(-num_tokens // block_size)


class BlockManager:
    """Hands out blocks 0 … num_blocks - 1, each with room for the keys and values of `block_size` tokens.

    A block is owned by every sequence that has it in its table. Only a sole owner writes to it, and nobody
    once it is in the prefix cache. A cached block without owners is idle: it keeps its contents until no
    other block is free.

    The prefix cache finds a full block by a digest of all tokens up to its end, chained block by block from a
    root made of `root_key` (whatever else decides the contents: model, adapter) and the request's scope.

    With `window`, no layer looks further back than that many tokens: a block that lies before them is given back, and
    its place in the table names the first block that is still there.

    A model that keeps a state of each sequence goes on only where one was kept: `num_snapshots` of them are, at the
    ends of blocks. None is for a model without states.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        enable_prefix_caching: bool = True,
        root_key: bytes = b"",
        window: int | None = None,
        num_snapshots: int | None = None,
    ) -> None:
        self.snapshots = None if num_snapshots is None else Snapshots(num_snapshots)
        self.window = window
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching and num_snapshots != 0
        self._num_owners = [0] * num_blocks
        self._free = list(reversed(range(num_blocks)))  # a stack: memory touched last is used first
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached blocks without owners, oldest first
        self._block_of: dict[bytes, int] = {}  # the prefix cache, and its inverse
        self._digest_of: dict[int, bytes] = {}
        self._root = sha256(root_key).digest()
        self._pack = Struct(f"<{block_size}i").pack

    @property
    def num_free(self) -> int:
        """Blocks that can be had: the free and the idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def usage(self) -> float:
        """Share of the blocks that have owners, 0 to 1."""
        return 1 - self.num_free / self.num_blocks

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def most_held(self, num_tokens: int, chunk: int) -> int:
        """Blocks that a sequence of so many tokens has at a time, at most, if `chunk` are computed at once."""
        return most_held(num_tokens, chunk, self.block_size, self.window)

    def fits(self, sequence: Sequence, num_blocks: int) -> bool:
        """Whether the blocks that a new sequence lacks of `num_blocks` are free now."""
        return num_blocks - len(sequence.blocks) <= self.num_free

    def match_prefix(self, sequence: Sequence, num_tokens: int, scope: CacheScope) -> int:
        """Gives a sequence without blocks the cached ones that it starts with; returns their tokens' number.

        The last of the `num_tokens` tokens is never among them: it is computed, so that there are logits.
        """
        if self.enable_prefix_caching:
            found: list[int] = []
            for index in range((num_tokens - 1) // self.block_size):
                block = self._block_of.get(self._digest(sequence, index, scope))
                if block is None:
                    break
                found.append(block)
            for block in found[: self._resumable(sequence, len(found))]:
                self._share(block)
                sequence.blocks.append(block)
            sequence.num_computed = len(sequence.blocks) * self.block_size
            self._give_back_passed(sequence)
        return sequence.num_computed

    def _resumable(self, sequence: Sequence, num_blocks: int) -> int:
        """With how many of the cached blocks that it starts with a sequence can begin: those before a state."""
        if self.snapshots is None:
            return num_blocks
        known = [i for i in range(num_blocks) if sequence.digests[i] in self.snapshots]
        count = known[-1] + 1 if known else 0
        sequence.snapshot = self.snapshots.find(sequence.digests[count - 1]) if known else None
        sequence.branch = num_blocks * self.block_size if count < num_blocks else 0
        return count

    def until_branch(self, sequence: Sequence, count: int) -> int:
        """How many of the next `count` tokens to compute at once: not beyond where others have gone another way."""
        left = sequence.branch - sequence.num_computed
        return min(count, left) if left > 0 else count

    def plan_snapshot(self, chunk: Chunk, scope: CacheScope) -> tuple[int, int] | None:
        """After how many tokens of its sequence a state is kept while a chunk is computed, and under which number.

        That is the last end of a block within it; a prompt that comes again needs its own last token computed.
        """
        if self.snapshots is None or not self.enable_prefix_caching:
            return None
        sequence, end = chunk.sequence, chunk.start + chunk.count
        ends_prompt = chunk.start < sequence.num_prompt_tokens <= end
        tokens = (end - ends_prompt) // self.block_size * self.block_size
        if tokens <= chunk.start:
            tokens = end // self.block_size * self.block_size
        if tokens <= chunk.start:
            return None
        if sequence.tokens[tokens - 1] != UNKNOWN_TOKEN:
            digest = self._digest(sequence, tokens // self.block_size - 1, scope)
            if digest in self.snapshots:
                self.snapshots.find(digest)
                return None
        number = self.snapshots.take(instead=sequence.passing)
        return None if number is None else (tokens, number)

    def commit_snapshot(self, chunk: Chunk, is_kept: bool, scope: CacheScope) -> None:
        """Notes that a chunk has left the state that was planned, if that `is_kept`.

        That of a prompt's last block stays, as does one where others have gone another way; any other until the next.
        """
        if self.snapshots is None or chunk.kept is None:
            return
        sequence, (tokens, number) = chunk.sequence, chunk.kept
        if not is_kept:
            self.snapshots.give_back(number)
            return
        digest = self._digest(sequence, tokens // self.block_size - 1, scope)
        self.snapshots.put(digest, number)
        stays = tokens in (sequence.branch, (sequence.num_prompt_tokens - 1) // self.block_size * self.block_size)
        sequence.passing = None if stays else digest

    def reserve(self, sequence: Sequence, num_tokens: int) -> list[tuple[int, int]] | None:
        """Makes positions `num_computed` … `num_tokens` - 1 writable: adds blocks, replaces read-only ones.

        Returns the (source, target) blocks to copy for that. All copies of a step run in the order in which
        they were returned and before anything is written, so a source may be handed out again at once.
        Returns None, and changes nothing, when there are too few free blocks.
        """
        table, size = sequence.blocks, self.block_size
        end = -(-num_tokens // size)
        replaced = [
            index
            for index in range(sequence.num_computed // size, min(end, len(table)))
            if self._num_owners[table[index]] > 1 or table[index] in self._digest_of
        ]
        num_added = max(end - len(table), 0)
        if not replaced and not num_added:
            return []
        if len(replaced) + num_added > self.num_free:
            return None
        copies = []
        for index in replaced:
            source, target = table[index], self._take()
            table[index] = target
            copies.append((source, target))
            self._leave(source)
        for _ in range(num_added):
            table.append(self._take())
        table[: sequence.num_passed] = table[sequence.num_passed :][:1] * sequence.num_passed
        return copies

    def commit(self, sequence: Sequence, count: int, scope: CacheScope) -> None:
        """Notes that `count` more tokens are computed, and puts the blocks they filled into the cache."""
        first = sequence.num_computed // self.block_size
        sequence.num_computed += count
        end = sequence.num_computed // self.block_size
        if self.enable_prefix_caching:
            for index in range(first, end):
                digest = self._digest(sequence, index, scope)
                if digest not in self._block_of:
                    self._block_of[digest] = sequence.blocks[index]
                    self._digest_of[sequence.blocks[index]] = digest
        self._give_back_passed(sequence)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets the child share its parent's blocks; their first `parent.num_computed` tokens are equal."""
        for block in parent.blocks[parent.num_passed :]:
            self._share(block)
        child.blocks, child.num_passed = parent.blocks.copy(), parent.num_passed
        child.num_computed = parent.num_computed
        child.digests = parent.digests[: parent.num_computed // self.block_size]

    def release(self, sequence: Sequence) -> None:
        """Takes all blocks from the sequence. It can start again, from nothing."""
        # The end goes first and is evicted first: a cached block is of no use without those before it.
        for block in reversed(sequence.blocks[sequence.num_passed :]):
            self._leave(block)
        sequence.blocks = []
        sequence.num_computed = sequence.num_passed = 0
        sequence.snapshot = None

    def _give_back_passed(self, sequence: Sequence) -> None:
        """Gives back the leading blocks that the window has passed, all but one at most."""
        if self.window is None:
            return
        blocks = sequence.blocks
        passed = min((sequence.num_computed + 1 - self.window) // self.block_size, len(blocks) - 1)
        if passed <= sequence.num_passed:
            return
        for block in blocks[sequence.num_passed : passed]:
            self._leave(block)
        blocks[:passed] = [blocks[passed]] * passed
        sequence.num_passed = passed

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            digest = self._digest_of.pop(block)
            del self._block_of[digest]
            if self.snapshots is not None:
                self.snapshots.drop(digest)
        self._num_owners[block] = 1
        return block

    def _share(self, block: int) -> None:
        if self._num_owners[block] == 0:
            del self._idle[block]
        self._num_owners[block] += 1

    def _leave(self, block: int) -> None:
        self._num_owners[block] -= 1
        if self._num_owners[block] == 0:
            if block in self._digest_of:
                self._idle[block] = None
            else:
                self._free.append(block)

    def _digest(self, sequence: Sequence, index: int, scope: CacheScope) -> bytes:
        """The prefix cache's key of a sequence's full block. Each block is hashed once."""
        digests = sequence.digests
        while len(digests) <= index:
            start = len(digests) * self.block_size
            tokens = self._pack(*sequence.tokens[start : start + self.block_size])
            digests.append(sha256((digests[-1] if digests else self._scoped_root(scope)) + tokens).digest())
        return digests[index]

    def _scoped_root(self, scope: CacheScope) -> bytes:
        return sha256(self._root + scope.digest).digest()
