"""The KV cache as numbers: which blocks a sequence has, and which of them it can share with others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from struct import Struct

from octavo.graph.cache import BlockGroup
from octavo.request import UNKNOWN_TOKEN, BlockTable, CacheScope, Chunk, Sequence
from octavo.scheduler.pool import BlockPool
from octavo.scheduler.snapshots import Snapshots


def most_held(num_tokens: int, chunk: int, block_size: int, window: int | None) -> int:
    """Blocks that a sequence of so many tokens has at a time, at most, if `chunk` are computed at once."""
    if window is not None:
        num_tokens = min(num_tokens, window + chunk + block_size)
    return -(-num_tokens // block_size)


class BlockManager:
    """Gives sequences their blocks, each with room for the keys and values of `block_size` tokens in a group of layers.

    A sequence has a table of each of the `groups`. A block of layers with a window is given back once that has passed
    it, and its place in the table names the first block that is still there.

    The prefix cache finds a full block by a digest of all tokens up to its end, chained block by block from a
    root made of `root_key` (whatever else decides the contents: model, adapter) and the request's scope.

    A model that keeps a state of each sequence goes on only where one was kept: `num_snapshots` of them are, at the
    ends of blocks. None is for a model without states.
    """

    def __init__(
        self,
        groups: Iterable[BlockGroup],
        block_size: int,
        enable_prefix_caching: bool = True,
        root_key: bytes = b"",
        num_snapshots: int | None = None,
    ) -> None:
        self.snapshots = None if num_snapshots is None else Snapshots(num_snapshots)
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching and num_snapshots != 0
        self.pools = [BlockPool(group, block_size, self._evicted) for group in groups]
        self.on_filled: Callable[[bytes, int], None] = lambda digest, index: None  # a block is new to the cache
        self.on_kept: Callable[[bytes, int], None] = lambda digest, index: None  # a state is, which stays
        self._root = sha256(root_key).digest()
        self._pack = Struct(f"<{block_size}i").pack

    @property
    def num_blocks(self) -> int:
        """Those of the first group; the others never lack any while it has some."""
        return self.pools[0].group.count

    @property
    def usage(self) -> float:
        """Share of the blocks that have owners, 0 to 1, in the group where it is largest."""
        return max(pool.usage for pool in self.pools)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def most_held(self, num_tokens: int, chunk: int) -> int:
        """Blocks of the first group that a sequence of so many tokens has at most, if `chunk` are computed at once."""
        return most_held(num_tokens, chunk, self.block_size, self.pools[0].group.window)

    def fits(self, sequence: Sequence, chunk: int, num_more: int = 0) -> bool:
        """Whether the blocks that a new sequence lacks, and as many more, are free. `chunk` is as for `most_held`."""
        tables = sequence.tables or [BlockTable() for _ in self.pools]
        for pool, table in zip(self.pools, tables, strict=True):
            needed = most_held(len(sequence.tokens), chunk, self.block_size, pool.group.window)
            if needed + num_more - len(table.blocks) + table.num_passed > pool.num_free:
                return False
        return True

    def match_prefix(self, sequence: Sequence, num_tokens: int, scope: CacheScope) -> int:
        """Gives a sequence without blocks the cached ones that it starts with; returns their tokens' number.

        The last of the `num_tokens` tokens is never among them: it is computed, so that there are logits.
        """
        if not self.enable_prefix_caching:
            return 0
        count = self.num_resumable(sequence, (num_tokens - 1) // self.block_size, scope)
        sequence.num_computed = count * self.block_size
        for pool in self.pools if count else ():
            passed = pool.num_passed(sequence.num_computed)
            held = [pool.find(digest) for digest in sequence.digests[passed:count]]
            sequence.tables.append(BlockTable(held[:1] * passed + held, passed))
        if self.snapshots is not None:
            sequence.snapshot = self.snapshots.find(sequence.digests[count - 1]) if count else None
        return sequence.num_computed

    def num_resumable(self, sequence: Sequence, most: int, scope: CacheScope) -> int:
        """How many of its first blocks, at most `most`, a sequence can go on from.

        All that layers still look at is cached then, and the state, if there is one. Notes where others that begin
        alike have gone on from without a state.
        """
        runs = [0] * len(self.pools)  # of cached blocks, up to where it is looked
        in_pages = found = 0
        for count in range(1, most + 1):
            digest = self.digest(sequence, count - 1, scope)
            runs = [run + 1 if digest in pool else 0 for run, pool in zip(runs, self.pools, strict=True)]
            missing = [
                pool.group.window is None
                for run, pool in zip(runs, self.pools, strict=True)
                if run < count - pool.num_passed(count * self.block_size)
            ]
            if any(missing):  # layers that look at everything
                break
            if not missing:
                in_pages = count
                found = count if self.snapshots is None or digest in self.snapshots else found
        sequence.branch = in_pages * self.block_size if found < in_pages else 0
        return found

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
            digest = self.digest(sequence, tokens // self.block_size - 1, scope)
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
        digest = self.digest(sequence, tokens // self.block_size - 1, scope)
        self.snapshots.put(digest, number)
        stays = tokens in (sequence.branch, (sequence.num_prompt_tokens - 1) // self.block_size * self.block_size)
        sequence.passing = None if stays else digest
        if stays:
            self.on_kept(digest, tokens // self.block_size - 1)

    def reserve(self, sequence: Sequence, num_tokens: int) -> list[tuple[int, int]] | None:
        """Makes positions `num_computed` … `num_tokens` - 1 writable: adds blocks, replaces read-only ones.

        Returns the (source, target) blocks to copy for that. All copies of a step run in the order in which
        they were returned and before anything is written, so a source may be handed out again at once.
        Returns None, and changes nothing, when there are too few free blocks.
        """
        tables = sequence.tables or [BlockTable() for _ in self.pools]
        first, end = sequence.num_computed // self.block_size, -(-num_tokens // self.block_size)
        changes = []
        for pool, table in zip(self.pools, tables, strict=True):
            blocks = table.blocks
            written = range(first, min(end, len(blocks)))
            replaced = [index for index in written if not pool.is_writable(blocks[index])]
            num_added = max(end - len(blocks), 0)
            if replaced or num_added:
                if len(replaced) + num_added > pool.num_free:
                    return None
                changes.append((pool, table, replaced, num_added))
        sequence.tables = tables
        copies = []
        for pool, table, replaced, num_added in changes:
            for index in replaced:
                source, target = table.blocks[index], pool.take()
                table.blocks[index] = target
                copies.append((source, target))
                pool.leave(source)
            table.blocks += [pool.take() for _ in range(num_added)]
            table.name_first()
        return copies

    def commit(self, sequence: Sequence, count: int, scope: CacheScope) -> None:
        """Notes that `count` more tokens are computed, and puts the blocks they filled into the cache."""
        first = sequence.num_computed // self.block_size
        sequence.num_computed += count
        end = sequence.num_computed // self.block_size
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            if self.enable_prefix_caching:
                for index in range(first, end):
                    digest = self.digest(sequence, index, scope)
                    if pool.put(digest, table.blocks[index]) and pool is self.pools[0]:
                        self.on_filled(digest, index)
            passed = pool.num_passed(sequence.num_computed)
            if passed > table.num_passed:
                for block in table.blocks[table.num_passed : passed]:
                    pool.leave(block)
                table.num_passed = passed
                table.name_first()

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets the child share its parent's blocks; their first `parent.num_computed` tokens are equal."""
        for pool, table in zip(self.pools, parent.tables, strict=False):
            for block in table.held:
                pool.share(block)
        child.tables = [BlockTable(table.blocks.copy(), table.num_passed) for table in parent.tables]
        child.num_computed = parent.num_computed
        child.digests = parent.digests[: parent.num_computed // self.block_size]

    def release(self, sequence: Sequence) -> None:
        """Takes all blocks from the sequence. It can start again, from nothing."""
        # The end goes first and is evicted first: a cached block is of no use without those before it.
        for pool, table in zip(self.pools, sequence.tables, strict=False):
            for block in reversed(table.held):
                pool.leave(block)
        sequence.tables = []
        sequence.num_computed = 0
        sequence.snapshot = None

    def _evicted(self, digest: bytes) -> None:
        if self.snapshots is not None:
            self.snapshots.drop(digest)

    def digest(self, sequence: Sequence, index: int, scope: CacheScope) -> bytes:
        """The prefix cache's key of a sequence's full block. Each block is hashed once."""
        digests = sequence.digests
        while len(digests) <= index:
            start = len(digests) * self.block_size
            tokens = self._pack(*sequence.tokens[start : start + self.block_size])
            digests.append(sha256((digests[-1] if digests else self._scoped_root(scope)) + tokens).digest())
        return digests[index]

    def _scoped_root(self, scope: CacheScope) -> bytes:
        return sha256(self._root + scope.digest).digest()
