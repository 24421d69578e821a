"""The data folder of a server: files and batches that outlive it, whatever ends it.

    lock            held by the server that uses the folder
    files/          ID.data and ID.json: a file and its record
    batches/        ID.json: a record; ID.output and ID.errors: answers so far, as the files that they will be
    temporary/      what is not whole yet; emptied at start

Everything gets its name when it is whole and on the disk. A file is there once its record is.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from octavo.errors import ConfigError
from octavo.server.batches.records import Batch, R, Records, StoredFile
from octavo.server.errors import NotFoundError, UnavailableError
from octavo.server.upload import Upload, UploadSpace
from octavo.weights.cache import publish

logger = logging.getLogger("octavo.server")
MAX_NAME = 255  # the most characters of a file's name
T = TypeVar("T")


class DataFolder:
    """Makes the folder, or takes up what another server left in it.

    Records are changed on the event loop, one after another, and only after the disk has them. Raises ConfigError if
    the folder can't be used, or another server uses it.
    """

    def __init__(self, path: str, max_file_bytes: int):
        self._path = Path(path)
        try:
            for name in ("files", "batches", "temporary"):
                (self._path / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._take_lock()
            for left in (self._path / "temporary").iterdir():
                left.unlink()
        except OSError as error:
            raise ConfigError("data_dir", path, f"can't be used: {error.strerror}") from None
        temporary = self._path / "temporary"
        self.uploads = UploadSpace(max_file_bytes, "max_file_bytes", temporary)
        self.files: Records[StoredFile] = Records(self._path / "files", temporary, StoredFile)
        self.batches: Records[Batch] = Records(self._path / "batches", temporary, Batch)
        self._thread = ThreadPoolExecutor(1, "octavo-data")
        self._changing = asyncio.Lock()
        self._remove_leftovers()

    def close(self) -> None:
        """Lets another server use the folder."""
        self._thread.shutdown()
        os.close(self._lock)

    async def do(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function that may wait for the disk, one at a time. Raises UnavailableError for its OSError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        except OSError as error:
            logger.error("the data folder: %s", error)
            reason = os.strerror(error.errno or 0)  # the error's own text has paths in it
            raise UnavailableError(f"this can't be stored: {reason}", "storage_full", 30) from error

    def files_of(self, owner: str) -> Iterator[StoredFile]:
        """From the oldest to the newest."""
        return (file for file in self.files if file.owner == owner and not _is_expired(file))

    def batches_of(self, owner: str) -> Iterator[Batch]:
        return (batch for batch in self.batches if batch.owner == owner)

    def find_file(self, file_id: str, owner: str, field: str = "file_id") -> StoredFile:
        """Raises NotFoundError, for another's file too."""
        file = self.files.get(file_id)
        if file is None or file.owner != owner or _is_expired(file):
            raise NotFoundError(f"{field}: there is no file {file_id[:80]!r}", field)
        return file

    def find_batch(self, batch_id: str, owner: str) -> Batch:
        """Raises NotFoundError, for another's batch too."""
        batch = self.batches.get(batch_id)
        if batch is None or batch.owner != owner:
            raise NotFoundError(f"batch_id: there is no batch {batch_id[:80]!r}", "batch_id")
        return batch

    def content(self, file_id: str) -> Path:
        return self._path / "files" / f"{file_id}.data"

    def answers(self, batch: Batch) -> dict[str, Path]:
        """Where a batch's answers grow, by the ids of the files that they become: answers first, then errors."""
        hex = batch.id.removeprefix("batch_")
        folder = self._path / "batches"
        return {f"file-{hex}-{kind}": folder / f"{batch.id}.{kind}" for kind in ("output", "errors")}

    async def store(self, upload: Upload, owner: str, purpose: str, seconds: int | None) -> StoredFile:
        """Makes an upload a file that stays, for so many `seconds` if that is said. Raises UnavailableError."""
        file_id, now = f"file-{uuid.uuid4().hex}", int(time.time())
        file = StoredFile(
            id=file_id,
            owner=owner,
            created_at=now,
            filename=_last_part(upload.filename),
            purpose=purpose,
            bytes=upload.size,
            expires_at=None if seconds is None else now + seconds,
        )
        try:
            await self.do(upload.keep, self.content(file_id))
            return await self.add_file(file)
        except UnavailableError:
            await self.drop_content(file_id)
            raise

    async def add_file(self, file: StoredFile) -> StoredFile:
        """Adds the record of a file whose content is there."""
        return await self._add(self.files, file)

    async def add_batch(self, batch: Batch) -> Batch:
        return await self._add(self.batches, batch)

    async def _add(self, records: Records[R], record: R) -> R:
        async with self._changing:
            record = records.numbered(record)
            try:
                await self.do(records.write, record)
            except UnavailableError:
                await self.do(records.unlink, record.id)  # it may be there, if only its folder could not be synced
                raise
            records.keep(record)
        return record

    async def change(self, batch_id: str, expected: Collection[str], **changes: Any) -> Batch | None:
        """Changes a batch whose status is one of `expected`; None, and nothing is changed, if it is another."""
        async with self._changing:
            batch = self.batches.get(batch_id)
            if batch is None or batch.status not in expected:
                return None
            batch = batch.changed(**changes)
            await self.do(self.batches.write, batch)
            self.batches.keep(batch)
        return batch

    async def remove(self, file: StoredFile) -> None:
        """Forgets a file. Its content stays while a batch reads it."""
        await self.do(self.files.unlink, file.id)
        self.files.forget(file.id)
        await self.drop_content(file.id)

    async def drop_content(self, file_id: str) -> None:
        """Removes a content that nobody needs any more."""
        if self.files.get(file_id) is None and file_id not in self._contents_of_batches():
            await self.do(partial(self.content(file_id).unlink, missing_ok=True))

    def keep_outputs(self, batch: Batch) -> list[StoredFile]:
        """Moves the answers of a batch to where files are. Says which; may be called again after a crash."""
        kept, now = [], int(time.time())
        for file_id, path in self.answers(batch).items():
            if path.exists() and path.stat().st_size:
                publish(path, self.content(file_id))
            path.unlink(missing_ok=True)
            if self.content(file_id).exists():
                file = StoredFile(
                    id=file_id,
                    owner=batch.owner,
                    created_at=now,
                    filename=f"{batch.id}_{file_id.rpartition('-')[2]}.jsonl",
                    purpose="batch_output",
                    bytes=self.content(file_id).stat().st_size,
                    expires_at=None if batch.output_seconds is None else now + batch.output_seconds,
                )
                kept.append(file)
        return kept

    async def sweep(self) -> None:
        """Removes files that have expired."""
        for file in self.files:
            if _is_expired(file):
                await self.remove(file)

    def _contents_of_batches(self) -> set[str]:
        """What unfinished batches read, and what becomes of them."""
        unfinished = [batch for batch in self.batches if not batch.is_finished]
        return {name for batch in unfinished for name in (batch.input_file_id, *self.answers(batch))}

    def _remove_leftovers(self) -> None:
        """Removes what a server that was killed did not finish."""
        needed = self._contents_of_batches()
        for path in (self._path / "files").glob("*.data"):
            if self.files.get(path.stem) is None and path.stem not in needed:
                path.unlink()
        for batch in self.batches:
            if batch.is_finished:
                for path in self.answers(batch).values():
                    path.unlink(missing_ok=True)

    def _take_lock(self) -> int:
        """A descriptor that holds the lock until the process ends."""
        descriptor = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError("data_dir", self._path, "another server uses this folder") from None
        return descriptor


def _last_part(name: str) -> str:
    """A file's name without folders and unprintable characters; it is shown, and never a path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:MAX_NAME]


def _is_expired(file: StoredFile) -> bool:
    return file.expires_at is not None and file.expires_at <= time.time()
