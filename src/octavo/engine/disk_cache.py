"""Between an engine's prefix cache and the store on disk: what fills goes out, what a request begins with comes in.

Both happen between steps. A block that came in is a block of the prefix cache like any other, which nobody owns, and
the scheduler finds it as if it had been computed here; a request that may begin with such waits until they have come.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence as SequenceOf
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from octavo.executor.base import Bytes, Executor
from octavo.prefix_store.base import READ_AHEAD
from octavo.prefix_store.store import PrefixStore
from octavo.request import Request, Status
from octavo.scheduler.blocks import BlockManager
from octavo.scheduler.pool import BlockPool

LOOK_UP = 0.005  # seconds that a plan waits to hear what the store has; most disks tell much sooner
PATIENCE = 0.05  # seconds that an engine with nothing to compute waits before it looks at its messages again
GIVE_UP = 2.0  # seconds without a word of the store until a request begins with what it has


@dataclass(slots=True)
class _Load:
    """What is fetched for a request that waits: blocks that it may begin with, in the order of its tokens."""

    digests: list[bytes]
    first: int  # that is not there: those before it are
    found: Future[int] | None  # how many of those from there on the store has
    count: int = 0  # blocks that the sequence can begin with then
    to_read: deque[int] = field(default_factory=deque)
    reading: deque[tuple[int, Future[Bytes | None]]] = field(default_factory=deque)
    state: Future[Bytes | None] | None = None
    held: list[tuple[BlockPool, int]] = field(default_factory=list)  # blocks that may not go meanwhile
    is_over: bool = False
    since: float = field(default_factory=time.monotonic)  # when the store has answered last

    @property
    def futures(self) -> list[Future[Any]]:
        """What it waits for next."""
        if self.found is not None:
            return [self.found]
        if self.reading:
            return [self.reading[0][1]]
        return [] if self.state is None else [self.state]

    @property
    def all_futures(self) -> list[Future[Any]]:
        """All that it still waits for."""
        one = [future for future in (self.found, self.state) if future is not None]
        return [*one, *(future for _, future in self.reading)]


class DiskCache:
    """Of one engine. `exchange` is called before each plan, `is_ready` by the scheduler in it."""

    def __init__(self, store: PrefixStore, blocks: BlockManager, executor: Executor):
        self._store, self._blocks, self._memory = store, blocks, executor.memory
        self._block_bytes, self._bytes = self._memory.block_bytes, sum(self._memory.block_bytes)
        self._state_bytes = self._memory.state_bytes if blocks.snapshots is not None else 0
        most = max((pool.group.count for pool in blocks.pools), default=0)  # all others have been overwritten
        self._filled: deque[tuple[bytes, int]] = deque(maxlen=most)  # digests, each with its place in its sequence
        self._kept: deque[tuple[bytes, int]] = deque(maxlen=most)
        self._loads: dict[Request, _Load] = {}
        self._late: list[Future[Any]] = []  # answers that were not waited for: until they come, nothing more is asked
        blocks.on_filled = self._fill
        blocks.on_kept = lambda *block: self._kept.append(block)

    def _fill(self, digest: bytes, index: int) -> None:
        self._store.stats.dropped_blocks += len(self._filled) == self._filled.maxlen
        self._filled.append((digest, index))

    @property
    def has_work(self) -> bool:
        """Whether something is still to be given to the store, or blocks are held that may be for nobody any more."""
        return bool(self._filled or self._kept) or any(load.held for load in self._loads.values())

    def exchange(self) -> None:
        """Gives the store what has filled, as far as it has room, and puts what it has read in its place."""
        self.spill()
        for request, load in list(self._loads.items()):
            if request.status is not Status.WAITING:
                self._end(load)
                del self._loads[request]
            elif not load.is_over:
                self._advance(load)
                if not load.is_over and time.monotonic() > load.since + GIVE_UP:
                    self._late += load.all_futures
                    self._end(load)

    def spill(self) -> None:
        """Gives the store what has filled. What is overwritten before its turn is lost to it."""
        while self._filled and self._store.has_room:
            digest, index = self._filled.popleft()
            blocks = [pool.peek(digest) for pool in self._blocks.pools]
            if any(block is None for block in blocks):
                self._store.stats.dropped_blocks += 1
                continue
            contents = self._memory.read_blocks([block for block in blocks if block is not None])
            self._store.write(digest, "kv", contents, self._bytes, index)
        while self._kept and self._store.has_room:
            (digest, index), snapshots = self._kept.popleft(), self._blocks.snapshots
            if snapshots is not None and (number := snapshots.peek(digest)) is not None:
                self._store.write(digest, "state", self._memory.read_state(number), self._state_bytes, index)

    def settle(self, seconds: float) -> None:
        """Has all that has filled written, which may take a while; not longer than `seconds`."""
        end = time.monotonic() + seconds
        while (self._filled or self._kept) and time.monotonic() < end:
            self.spill()
            if self._filled or self._kept:
                self._store.wait_for_room(PATIENCE)
        self._store.flush(max(0.0, end - time.monotonic()))

    def wait(self) -> None:
        """Waits for a moment, or until something has been read: there is nothing else to do."""
        futures = [future for load in self._loads.values() if not load.is_over for future in load.futures]
        if futures:
            wait(futures, PATIENCE, FIRST_COMPLETED)
        elif self._filled or self._kept:
            self._store.wait_for_room(PATIENCE)

    def is_ready(self, waiting: SequenceOf[Request]) -> bool:
        """Whether the first request may begin; fetching begins for the others, too."""
        return all([self._is_ready(request) for request in waiting][:1])

    def _is_ready(self, request: Request) -> bool:
        load = self._loads.get(request)
        if load is None:
            sequence, scope = request.sequences[0], request.prompt.scope
            most = (len(sequence.tokens) - 1) // self._blocks.block_size
            if request.needs_all_rows or sequence.tables or not self._blocks.fits(sequence, 0):
                return True
            self._late = [future for future in self._late if not future.done()]
            if self._late:
                return True
            first = self._blocks.num_resumable(sequence, most, scope)
            digests = [self._blocks.digest(sequence, index, scope) for index in range(most)]
            self._store.touch(digests[:first])
            if first < most and any(not one.is_over and digests[first] in one.digests for one in self._loads.values()):
                return False  # another brings what it lacks
            found = self._store.find(digests[first:], self._bytes, self._state_bytes) if first < most else None
            load = self._loads[request] = _Load(digests, first, found, is_over=first == most)
            wait(load.futures, LOOK_UP)
            if not load.is_over:
                self._advance(load)
        return load.is_over

    def _advance(self, load: _Load) -> None:
        """Goes on with a load as far as it can without waiting."""
        if load.found is not None:
            if not load.found.done():
                return
            load.count, load.found = load.first + load.found.result(), None
            load.since = time.monotonic()
            self._begin_reading(load)
        while load.reading and load.reading[0][1].done():
            index, future = load.reading.popleft()
            contents = future.result()
            if contents is None or not self._place(load, index, contents):
                self._end(load)
                return
            load.since = time.monotonic()
            self._read_more(load)
        if load.state is not None and load.state.done() and not load.reading:
            if (contents := load.state.result()) is not None:
                self._place_state(load.digests[load.count - 1], contents)
            load.state = None
        if not load.futures:
            self._end(load)

    def _begin_reading(self, load: _Load) -> None:
        if load.count == load.first:
            return
        for index in range(load.count):
            wanted = [pool for pool in self._blocks.pools if self._is_looked_at(pool, load, index)]
            there = [pool for pool in wanted if load.digests[index] in pool]
            load.held += [(pool, pool.find(load.digests[index])) for pool in there]
            if len(there) < len(wanted):
                load.to_read.append(index)
        if self._state_bytes and load.digests[load.count - 1] not in (self._blocks.snapshots or ()):
            last = load.count - 1
            load.state = self._store.read(load.digests[last], "state", self._state_bytes, last)
        self._read_more(load)

    def _read_more(self, load: _Load) -> None:
        most = max(2, READ_AHEAD // max(1, self._bytes))
        for index in itertools.islice(list(load.to_read), most - len(load.reading)):
            load.to_read.popleft()
            load.reading.append((index, self._store.read(load.digests[index], "kv", self._bytes, index)))

    def _place(self, load: _Load, index: int, contents: Bytes) -> bool:
        """Puts a block into the cache, in each group that lacks it; False if there is no room."""
        digest, begin = load.digests[index], 0
        for pool, size in zip(self._blocks.pools, self._block_bytes, strict=True):
            if self._is_looked_at(pool, load, index) and digest not in pool:
                if not pool.num_free:
                    return False
                block = pool.take()
                self._memory.write_block(block, contents[begin : begin + size])
                pool.put(digest, block)
                load.held.append((pool, block))
            begin += size
        self._store.stats.hit_tokens += self._blocks.block_size
        return True

    def _place_state(self, digest: bytes, contents: Bytes) -> None:
        snapshots = self._blocks.snapshots
        if snapshots is None or digest in snapshots or (number := snapshots.take()) is None:
            return
        self._memory.write_state(number, contents)
        snapshots.put(digest, number)

    def _is_looked_at(self, pool: BlockPool, load: _Load, index: int) -> bool:
        """Whether the layers of a group still look at a block when the sequence goes on behind what was found."""
        return index >= pool.num_passed(load.count * self._blocks.block_size)

    def _end(self, load: _Load) -> None:
        """Nobody owns its blocks any more; the last go first, as in `BlockManager.release`."""
        for future in load.all_futures:
            future.cancel()
        load.reading.clear()
        load.to_read.clear()
        load.found, load.state, load.is_over = None, None, True
        for pool, block in reversed(load.held):
            pool.leave(block)
        load.held.clear()
