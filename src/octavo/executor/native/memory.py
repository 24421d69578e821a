"""Blocks and snapshots of the native executor as bytes: to be kept elsewhere, and brought back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octavo import _native
from octavo.executor.base import Bytes, Contents, Sizes


class NativeMemory:
    """A step is done when it returns, so contents are copied at once."""

    def __init__(self, native: _native.Executor, sizes: Sizes):
        self._sizes = sizes
        self._pages: list[Bytes] = native.pages()  # of each group uint8 [blocks, bytes]: the cache itself
        self._states: list[Bytes] = native.states()  # of each operation that keeps something, [slots, bytes]: likewise

    @property
    def block_bytes(self) -> tuple[int, ...]:
        return tuple(pages.shape[1] for pages in self._pages)

    @property
    def state_bytes(self) -> int:
        return sum(state.shape[1] for state in self._states)

    def read_blocks(self, blocks: Sequence[int]) -> Contents:
        contents = np.concatenate([self._page(block) for block in blocks])
        return lambda: contents

    def write_block(self, block: int, contents: Bytes) -> None:
        self._page(block)[:] = contents

    def read_state(self, snapshot: int) -> Contents:
        contents = np.concatenate([state[self._slot(snapshot)] for state in self._states])
        return lambda: contents

    def write_state(self, snapshot: int, contents: Bytes) -> None:
        begin = 0
        for state in self._states:
            state[self._slot(snapshot)] = contents[begin : begin + state.shape[1]]
            begin += state.shape[1]

    def _page(self, block: int) -> Bytes:
        number = max(i for i, group in enumerate(self._sizes.groups) if group.first <= block)
        page: Bytes = self._pages[number][block - self._sizes.groups[number].first]
        return page

    def _slot(self, snapshot: int) -> int:
        return self._sizes.max_num_seqs + snapshot
