"""One batch, from its file to the files of its answers. It may be ended anywhere, and begun again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Any, TypeVar

from starlette.types import ASGIApp

from octavo.errors import OctavoError
from octavo.server.batches.calling import call
from octavo.server.batches.entries import BAD_LINE, Entry, EntryFile, Reply, entry_of, entry_of_none
from octavo.server.batches.folder import DataFolder
from octavo.server.batches.lines import BadLine, Line, read_lines
from octavo.server.batches.records import Batch
from octavo.server.batches.slots import Slots
from octavo.server.keys import Client

logger = logging.getLogger("octavo.server")
MAX_LINES = 50_000
MAX_ERRORS = 100  # bad lines that a batch itself tells of; its file of errors has all of them
LATER = (429, 503)  # statuses after which a line is asked again, however often
TRIES = 4  # of a line that the server fails to answer
PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds before a line is asked again: twice as long each time
TOGETHER = 500  # lines that are left out are written so many at a time
DISK_PAUSE = 1.0  # seconds before it is tried again to write
LEFT_OUT = {
    "cancelled": "the batch was cancelled before this line was answered",
    "expired": "the batch expired before this line was answered",
}
T = TypeVar("T")


class BatchRun:
    """Carries out a batch that is not finished. Its lines are asked of `app`, as requests of `client`."""

    def __init__(self, batch: Batch, folder: DataFolder, app: ASGIApp, client: Client, slots: Slots):
        self.batch_id = batch.id
        self._folder, self._app, self._client, self._slots = folder, app, client, slots
        self._gone = asyncio.Event()  # no line is to be answered any more
        self._closing = False
        self._files: list[EntryFile] = []  # answers, errors

    def stop(self) -> None:
        """Gives up the lines that are not answered: the batch was cancelled, or has expired."""
        self._gone.set()

    def close(self) -> None:
        """Leaves the batch as it is."""
        self._closing = True
        self.stop()

    def counted(self, batch: Batch) -> Batch:
        """The batch, with the lines that are answered by now."""
        if batch.ending is not None or not self._files:
            return batch
        answers, errors = self._files
        return replace(batch, completed=answers.num_entries, failed=errors.num_entries)

    async def run(self) -> None:
        """Raises OctavoError where it can't go on, or the server closes."""
        if self._batch.status == "validating":
            await self._validate()
        if not (self._closing or self._batch.is_finished):
            if self._batch.ending is None:
                await self._settle()
            if self._batch.ending is not None:
                await self._finish()

    @property
    def _batch(self) -> Batch:
        """As it is now: others may cancel it."""
        batch = self._folder.batches.get(self.batch_id)
        assert batch is not None
        return batch

    def _lines(self) -> Iterable[Line | BadLine]:
        """Raises OSError."""
        batch = self._batch
        return read_lines(self._folder.content(batch.input_file_id), (batch.endpoint,))

    async def _validate(self) -> None:
        try:
            changes = await asyncio.to_thread(self._look_through)
        except FileNotFoundError:
            changes = _failed("file_not_found", "the input file was removed", param="input_file_id")
        if not self._closing:
            await self._change(("validating",), **changes)

    def _look_through(self) -> dict[str, Any]:
        """What becomes of a batch that was read: it fails if none of its lines can be asked."""
        total, num_bad, errors = 0, 0, list[dict[str, Any]]()
        for line in self._lines():
            if self._gone.is_set():
                break
            total += 1
            if total > MAX_LINES:
                return _failed("too_many_lines", f"the file has more than {MAX_LINES} requests", line.number)
            if isinstance(line, BadLine):
                num_bad += 1
                errors.append(_error(BAD_LINE, line.reason, line.number, line.param))
                del errors[MAX_ERRORS:]
        if not total:
            return _failed("empty_file", "the file has no requests", param="input_file_id")
        if num_bad == total:
            return {"status": "failed", "errors": errors}
        return {"status": "in_progress", "total": total, "errors": errors or None}

    async def _settle(self) -> None:
        """Goes on until every line has an entry: an answer, an error, or why there is none."""
        self._files = await asyncio.to_thread(self._open_files)
        try:
            if self._batch.status == "in_progress":
                await self._answer_all()
                is_given_up = self._gone.is_set() and self._batch.status == "in_progress"
                is_expired = is_given_up and await self._leave_out("expired")
                if self._closing:
                    return
                ending = "expired" if is_expired else "completed"
                await self._change(("in_progress",), status="finalizing", ending=ending, **self._counts())
            if self._batch.status == "cancelling":
                await self._leave_out("cancelled")
                if self._closing:
                    return
                await self._change(("cancelling",), ending="cancelled", **self._counts())
        finally:
            for file in self._files:
                file.close()

    def _open_files(self) -> list[EntryFile]:
        paths = self._folder.answers(self._batch)
        return [EntryFile(path, file_id, is_durable=True) for file_id, path in paths.items()]

    def _counts(self) -> dict[str, int]:
        answers, errors = (file.num_entries for file in self._files)
        return {"total": answers + errors, "completed": answers, "failed": errors}

    async def _answer_all(self) -> None:
        """Until all lines have an entry, the batch was cancelled or has expired, or the server closes."""
        seconds = self._batch.expires_at - time.time()
        timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self.stop)
        lines = (line for line in self._lines() if not self._has(line))
        try:
            async with asyncio.TaskGroup() as group:
                while (line := await asyncio.to_thread(next, lines, None)) and not self._gone.is_set():
                    if isinstance(line, BadLine):
                        await self._keep(entry_of_none(line))
                    elif await self._slots.take(self._gone):
                        group.create_task(self._answer(line))
        finally:
            timer.cancel()

    async def _answer(self, line: Line) -> None:
        try:
            reply = await self._ask(line)
            if reply is not None:
                await self._keep(entry_of(line, reply))
        finally:
            self._slots.free()

    async def _ask(self, line: Line) -> Reply | None:
        """The answer that a line gets in the end; None if it is given up."""
        pause = PAUSE
        for attempt in count(1):
            state = {"client": self._client, "is_background": True}
            reply = await call(self._app, line, state, self._gone, self._read_file)
            may_improve = reply.status in LATER or (reply.status >= 500 and attempt < TRIES)
            if reply.status == 200 or not (may_improve or self._gone.is_set()):
                return reply
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._gone.wait()
            if self._gone.is_set():
                break
            pause = min(LONGEST_PAUSE, 2 * pause)
        return None

    def _read_file(self, file_id: str) -> bytes:
        return self._folder.content(self._folder.find_file(file_id, self._batch.owner).id).read_bytes()

    async def _leave_out(self, ending: str) -> int:
        """Gives each line without an entry one that says why. Returns how many those were."""
        num_left = 0
        lines = (line for line in self._lines() if not self._has(line))
        while not self._closing and (some := await asyncio.to_thread(list, islice(lines, TOGETHER))):
            num_left += len(some)
            await self._keep(*(entry_of_none(line, f"batch_{ending}", LEFT_OUT[ending]) for line in some))
        return num_left

    def _has(self, line: Line | BadLine) -> bool:
        return any(file.has(line) for file in self._files)

    async def _keep(self, *entries: Entry) -> None:
        """Writes answers, or errors."""
        file = self._files[entries[0]["error"] is not None]
        await self._insist(partial(self._folder.do, file.append, *entries))

    async def _finish(self) -> None:
        """Makes files of the answers. What a crash left undone is done again."""
        batch = self._batch
        found: dict[str, str | None] = {}
        for file in await self._insist(partial(self._folder.do, self._folder.keep_outputs, batch)):
            if self._folder.files.get(file.id) is None:
                await self._insist(partial(self._folder.add_file, file))
            found["error_file_id" if file.id.endswith("-errors") else "output_file_id"] = file.id
        await self._change(("finalizing", "cancelling"), status=batch.ending, **found)
        await self._folder.drop_content(batch.input_file_id)

    async def _change(self, expected: Collection[str], **changes: Any) -> None:
        await self._insist(partial(self._folder.change, self.batch_id, expected, **changes))

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Writes, as soon as the disk lets it. Raises OctavoError if the server closes before that."""
        while True:
            try:
                return await write()
            except OctavoError as error:
                if self._closing:
                    raise
                logger.error("%s waits: %s", self.batch_id, error)
                await asyncio.sleep(DISK_PAUSE)


def _error(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "line": line, "message": message, "param": param}


def _failed(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"status": "failed", "errors": [_error(code, message, line, param)]}
