"""Which tokens the draws of a step may give, found out beside the step."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    parts: Sequence[Future[None]]

    def result(self) -> Bits:
        for part in self.parts:
            part.result()
        return self.bits


class MaskThreads:
    """Fills masks on threads of their own, which begin with the first mask. llguidance works without the GIL."""

    def __init__(self, vocab_size: int):
        self._vocab_size = vocab_size
        self._num_threads = max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2))

    def begin(self, constraints: Sequence[Constraint]) -> MasksToCome | None:
        """Masks of these constraints, none of which may be touched until they are there."""
        if not constraints:
            return None
        bits = no_tokens(len(constraints), self._vocab_size)
        shares = [range(first, len(constraints), self._num_threads) for first in range(self._num_threads)]
        return MasksToCome(bits, [self._pool.submit(_fill, constraints, bits, share) for share in shares if share])

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._num_threads, thread_name_prefix="octavo-masks")


def _fill(constraints: Sequence[Constraint], bits: Bits, share: range) -> None:
    for i in share:
        constraints[i].fill(bits[i])
