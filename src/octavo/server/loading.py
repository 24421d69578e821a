"""Loads the models on a thread of its own, while the rest of the server is imported."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.server.models import ModelRegistry


def start_loading(models: ModelRegistry) -> Future[None]:
    """Returns at once; the result comes, or the error, when all models are there."""
    for number in (signal.SIGTERM, signal.SIGINT):  # until the event loop looks after them, nobody waits for anything
        signal.signal(number, lambda *_: os._exit(0))
    loaded: Future[None] = Future()

    def load() -> None:
        try:
            models.load_all()
        except BaseException as error:
            loaded.set_exception(error)
        else:
            loaded.set_result(None)

    threading.Thread(target=load, name="octavo-loading", daemon=True).start()
    return loaded
