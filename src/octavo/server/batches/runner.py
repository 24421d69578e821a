"""Runs batches beside other requests: which of them, for whom, and how many lines at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import ASGIApp

from octavo.errors import OctavoError
from octavo.server.batches.folder import DataFolder
from octavo.server.batches.records import Batch
from octavo.server.batches.run import BatchRun
from octavo.server.batches.slots import Slots
from octavo.server.errors import HttpError
from octavo.server.keys import Client, Keys

logger = logging.getLogger("octavo.server")
SWEEP_SECONDS = 60.0
CLOSE_SECONDS = 0.01  # how often it is looked whether all have ended


class BatchRunner:
    """The batches of a server that are not finished. Nothing is answered before `start`.

    `is_busy` says whether engines have other requests; those of batches are not to be counted there.
    """

    def __init__(self, folder: DataFolder, keys: Keys, is_busy: Callable[[], bool], concurrency: int):
        self._folder, self._keys = folder, keys
        self._slots = Slots(concurrency, is_busy)
        self._runs: dict[str, BatchRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: dict[str, Client] = {}
        self._app: ASGIApp | None = None

    def start(self, app: ASGIApp) -> None:
        """Goes on with what is unfinished; lines are asked of `app`."""
        self._app = app
        for batch in self._folder.batches:
            if not batch.is_finished:
                self.begin(batch)
        self._spawn(self._sweep())

    def begin(self, batch: Batch) -> None:
        """Runs a batch. That of a key that is not known any more waits until it is."""
        client = self._client(batch.owner)
        if client is None:
            logger.warning("%s is not run: the key that made it is not known", batch.id)
        elif self._app is not None:
            run = self._runs[batch.id] = BatchRun(batch, self._folder, self._app, client, self._slots)
            self._spawn(self._follow(run))

    async def cancel(self, batch: Batch) -> Batch:
        """The batch as it is then. Raises HttpError if it can't be cancelled any more."""
        changed = await self._folder.change(batch.id, ("validating", "in_progress"), status="cancelling")
        if changed is not None:
            if batch.id in self._runs:
                self._runs[batch.id].stop()
            else:
                self.begin(changed)
        current = changed or self._folder.batches.get(batch.id) or batch
        if current.status != "cancelling":
            reason = f"batch_id: a batch that is {current.status} can't be cancelled"
            raise HttpError(reason, "batch_id", code="invalid_status")
        return current

    def counted(self, batch: Batch) -> Batch:
        """The batch with the lines that are answered by now."""
        return self._runs[batch.id].counted(batch) if batch.id in self._runs else batch

    async def close(self) -> None:
        """Ends what runs. What has no answer yet gets it when a server starts again."""
        self._app = None
        for run in self._runs.values():
            run.close()
        while self._runs:
            await asyncio.sleep(CLOSE_SECONDS)
        for task in self._tasks:  # that which sweeps
            task.cancel()

    def _client(self, owner: str) -> Client | None:
        """Who asks the lines of an owner's batches: with the limits of the key, once more."""
        if owner not in self._clients:
            client = self._keys.find(owner)
            if client is None:
                return None
            self._clients[owner] = client.twin()
        return self._clients[owner]

    async def _follow(self, run: BatchRun) -> None:
        later = "it goes on when the server is started again"
        try:
            await run.run()
        except OctavoError as error:
            logger.error("%s stops, and %s: %s", run.batch_id, later, error)
        except Exception:
            logger.exception("%s stops, and %s", run.batch_id, later)
        finally:
            del self._runs[run.batch_id]

    async def _sweep(self) -> None:
        while True:
            try:
                await self._folder.sweep()
            except HttpError as error:
                logger.error("expired files can't be removed: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
