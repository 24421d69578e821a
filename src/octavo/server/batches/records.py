"""What the data folder knows of files and batches, as plain values; each is one JSON file there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from octavo import strict_json
from octavo.errors import ConfigError
from octavo.weights.cache import publish

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`owner` is that of the client that made it; `order` counts all records of a kind. Times are Unix seconds."""

    id: str
    owner: str
    order: int = 0
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile(Record):
    """A file whose content is there, whole. `filename` is what its client called it, and leads nowhere."""

    filename: str
    purpose: str
    bytes: int
    expires_at: int | None = None

    def json(self) -> dict[str, Any]:
        """OpenAI's File."""
        return {**_public(self), "object": "file", "status": "processed", "status_details": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Record):
    """The lines of a file that are asked one by one. `total` to `failed` count lines."""

    input_file_id: str
    endpoint: str
    completion_window: str
    expires_at: int
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None  # the files of answers expire so long after they were made
    status: str = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    errors: list[dict[str, Any]] | None = None
    model: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    ending: str | None = None  # the last status, once every line has its entry
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED

    def changed(self, **changes: Any) -> Batch:
        """With a new status comes the time of it."""
        if "status" in changes:
            changes[f"{changes['status']}_at"] = int(time.time())
        return replace(self, **changes)

    def json(self) -> dict[str, Any]:
        """OpenAI's Batch."""
        public = {name: value for name, value in _public(self).items() if name not in ("ending", "output_seconds")}
        counts = {name: public.pop(name) for name in ("total", "completed", "failed")}
        errors = {"object": "list", "data": self.errors} if self.errors else None
        return {**public, "object": "batch", "request_counts": counts, "errors": errors}


def _public(record: Record) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name not in ("owner", "order")}


R = TypeVar("R", bound=Record)


class Records(Generic[R]):
    """The records of one kind: in memory, and in a folder. Writing blocks until the disk has it.

    Raises ConfigError for a record that can't be read: nobody but the server writes them.
    """

    def __init__(self, folder: Path, temporary: Path, kind: type[R]):
        self._folder, self._temporary = folder, temporary
        self._records: dict[str, R] = {}
        for record in sorted((_read(path, kind) for path in folder.glob("*.json")), key=lambda record: record.order):
            self._records[record.id] = record

    def __iter__(self) -> Iterator[R]:
        """From the oldest to the newest."""
        return iter(list(self._records.values()))

    def get(self, record_id: str) -> R | None:
        return self._records.get(record_id)

    def numbered(self, record: R) -> R:
        """The record as the newest one."""
        last = next(reversed(self._records.values()), None)
        return replace(record, order=last.order + 1 if last else 1)

    def write(self, record: R) -> None:
        """Raises OSError if there is no room: then the record is what it was."""
        source = self._temporary / f"{record.id}.json"
        try:
            source.write_text(json.dumps(asdict(record)), encoding="utf-8")
            publish(source, self._path(record.id))
        except OSError:
            source.unlink(missing_ok=True)
            raise

    def keep(self, record: R) -> None:
        """Takes a record that was written into memory."""
        self._records[record.id] = record

    def forget(self, record_id: str) -> None:
        self._records.pop(record_id, None)

    def unlink(self, record_id: str) -> None:
        self._path(record_id).unlink(missing_ok=True)

    def _path(self, record_id: str) -> Path:
        return self._folder / f"{record_id}.json"


def _read(path: Path, kind: type[R]) -> R:
    try:
        return kind(**strict_json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError("data_dir", path, f"can't be read as a record of the server: {error}") from None
