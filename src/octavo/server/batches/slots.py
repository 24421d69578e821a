"""How many lines of batches are at the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

POLL_SECONDS = 0.02  # how often it is looked whether others need the engines


class Slots:
    """Lets `most` lines of all batches run while nobody else does, and else one."""

    def __init__(self, most: int, is_busy: Callable[[], bool]):
        self._most, self._is_busy = most, is_busy
        self._taken = 0
        self._turn = asyncio.Lock()  # whoever waits longest is next

    async def take(self, gone: asyncio.Event) -> bool:
        """Waits for a slot; False if `gone` is set before there is one."""
        async with self._turn:
            while self._taken >= (1 if self._is_busy() else self._most):
                if gone.is_set():
                    return False
                await asyncio.sleep(POLL_SECONDS)
            self._taken += 1
            return True

    def free(self) -> None:
        self._taken -= 1
