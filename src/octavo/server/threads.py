"""What takes long, on threads of its own that the end of the program does not wait for."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
NAME = "octavo-models"


def any_running() -> bool:
    """Whether one of them is not done yet: Python must not take itself down under what it reads or frees."""
    return any(thread.name == NAME for thread in threading.enumerate())


async def in_thread(function: Callable[[], T]) -> T:
    """What `function` returns or raises. It goes on if nobody waits any more, and is lost with the program."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            found = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(found)

    threading.Thread(target=run, name=NAME, daemon=True).start()
    return await asyncio.shield(asyncio.wrap_future(future))


def give_memory_back(close: Callable[[], None], is_frozen: bool) -> None:
    """Calls `close`, and has the system take back what was freed by it.

    With `is_frozen`, that is among what collections need not look at, as it was there when the server began.
    """
    close()
    if is_frozen:
        gc.unfreeze()
    gc.collect()
    if is_frozen:
        gc.freeze()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library has no such function
        ctypes.CDLL(None).malloc_trim(0)
