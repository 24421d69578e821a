"""Which tokens the draws of a step may give, found out on other threads, from where the step before it has landed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from octavo.sampling.masks import Bits, no_tokens
from octavo.structured.constraint import Constraint

MOST_THREADS = 4


@dataclass(frozen=True, slots=True)
class MasksToCome:
    """The promise of masks: see `octavo.executor.base.Masks`."""

    bits: Bits
    rows: Mapping[Constraint, int]  # of `bits`
    parts: Sequence[Future[None]]

    def result(self) -> Bits:
        for part in self.parts:
            part.result()
        return self.bits


class MaskThreads:
    """Fills masks on threads of their own, which begin with the first mask. llguidance works without the GIL.

    No constraint may be touched until its mask is there.
    """

    def __init__(self, vocab_size: int):
        self._vocab_size = vocab_size
        self._num_threads = max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2))
        self._prepared: MasksToCome | None = None

    def prepare(self, constraints: Sequence[Constraint]) -> None:
        """Begins masks that the next step may want: between steps there is a core for them."""
        self._wait()
        self._prepared = self._fill(constraints) if constraints else None

    def begin(self, constraints: Sequence[Constraint]) -> MasksToCome | None:
        """Masks of these constraints, those that were prepared if none is missing."""
        if not constraints:
            return None
        prepared = self._prepared
        if prepared is not None and prepared.rows.keys() >= set(constraints):
            return prepared
        self._wait()
        return self._fill(constraints)

    def _wait(self) -> None:
        """Nobody may have asked for what was prepared."""
        if self._prepared is not None:
            self._prepared.result()
            self._prepared = None

    def _fill(self, constraints: Sequence[Constraint]) -> MasksToCome:
        bits = no_tokens(len(constraints), self._vocab_size)
        shares = [range(first, len(constraints), self._num_threads) for first in range(self._num_threads)]
        parts = [self._pool.submit(_fill, constraints, bits, share) for share in shares if share]
        return MasksToCome(bits, {constraint: row for row, constraint in enumerate(constraints)}, parts)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._num_threads, thread_name_prefix="octavo-masks")


def _fill(constraints: Sequence[Constraint], bits: Bits, share: range) -> None:
    for i in share:
        constraints[i].fill(bits[i])
