"""What the Responses API remembers: responses and conversations, in memory or in a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from octavo.errors import ConfigError
from octavo.server.errors import HttpError

if TYPE_CHECKING:
    import sqlite3

Json = dict[str, Any]
T = TypeVar("T")
_TABLES = """
    PRAGMA foreign_keys = ON;
    CREATE TABLE IF NOT EXISTS records (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL, value TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS by_use ON records (used, size);
    CREATE TABLE IF NOT EXISTS items (
        id TEXT NOT NULL, record TEXT NOT NULL REFERENCES records ON DELETE CASCADE, PRIMARY KEY (id, record));
    CREATE INDEX IF NOT EXISTS by_record ON items (record);
"""


class StoreFailedError(HttpError):
    """Something could not be written down, or read again."""

    status, type, code = 500, "server_error", "store_failed"


class ResponseStore:
    """Records by their ids, each with an owner, for whom alone it is there. The least recently used make room.

    A file has every record for good before `put` returns. It is one process's; SQLite runs on a thread of its own.
    """

    def __init__(self, file: str | None, max_records: int, max_bytes: int):
        """Raises ConfigError for a file that can't be used."""
        self._file, self._max_records, self._max_bytes = file, max_records, max_bytes
        self._database: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "octavo-store")
        if file is not None:
            self._thread.submit(self._open).result()

    async def get(self, owner: str, id: str) -> Json | None:
        """Raises StoreFailedError, as all that follow."""
        return await self._run(lambda: self._read("id = ?", owner, id))

    async def find(self, owner: str, item: str) -> Json | None:
        """The record that has an item of this id; the one that was used last."""
        return await self._run(lambda: self._read("id IN (SELECT record FROM items WHERE id = ?)", owner, item))

    async def put(self, owner: str, id: str, value: Json, items: Sequence[str] = ()) -> None:
        """Keeps a record, in place of one of its id, which has items of these ids."""
        await self._run(lambda: self._write(owner, id, value, items))

    async def delete(self, owner: str, id: str) -> bool:
        """Whether it was there."""
        return await self._run(lambda: self._execute("DELETE FROM records WHERE id = ? AND owner = ?", id, owner) > 0)

    async def change(self, owner: str, id: str, change: Callable[[Json], Sequence[str]]) -> Json | None:
        """Has `change` alter a record, and say which items it has then; returns the record, if there is one."""

        def work() -> Json | None:
            value = self._read("id = ?", owner, id)
            if value is not None:
                self._write(owner, id, value, change(value))
            return value

        return await self._run(work)

    def close(self) -> None:
        if self._database is not None:
            self._thread.submit(self._database.close).result()
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[], T]) -> T:
        """`work` as one transaction."""
        import sqlite3  # takes a while to import

        if self._database is None:
            self._open()
        assert self._database is not None
        try:
            with self._database:
                return work()
        except sqlite3.Error as error:
            raise StoreFailedError(f"the store of responses failed: {error}") from error

    def _open(self) -> None:
        import sqlite3

        try:
            database = sqlite3.connect(self._file or ":memory:", timeout=1, check_same_thread=False)
            if self._file is not None:
                for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                    database.execute(f"PRAGMA {setting}")
            database.executescript(_TABLES)
            (last,) = database.execute("SELECT max(used) FROM records").fetchone()
        except sqlite3.Error as error:
            raise ConfigError("response_store", self._file, f"can't be used to store responses: {error}") from error
        self._database, self._last_use = database, last or 0

    def _execute(self, statement: str, *values: Any) -> int:
        """The number of rows that were changed."""
        assert self._database is not None
        return self._database.execute(statement, values).rowcount

    def _read(self, condition: str, owner: str, id: str) -> Json | None:
        assert self._database is not None
        select = f"SELECT id, value FROM records WHERE {condition} AND owner = ? ORDER BY used DESC LIMIT 1"
        found = self._database.execute(select, (id, owner)).fetchone()
        if found is None:
            return None
        self._execute("UPDATE records SET used = ? WHERE id = ?", self._next_use(), found[0])
        value: Json = json.loads(found[1])
        return value

    def _write(self, owner: str, id: str, value: Json, items: Sequence[str]) -> None:
        assert self._database is not None
        text = json.dumps(value, separators=(",", ":"))
        self._execute("DELETE FROM records WHERE id = ? AND owner = ?", id, owner)
        row = (id, owner, len(text), self._next_use(), text)
        self._execute("INSERT INTO records (id, owner, size, used, value) VALUES (?, ?, ?, ?, ?)", *row)
        self._database.executemany("INSERT OR IGNORE INTO items VALUES (?, ?)", [(item, id) for item in items])
        self._make_room()

    def _make_room(self) -> None:
        assert self._database is not None
        while True:
            count, size = self._database.execute("SELECT count(*), total(size) FROM records").fetchone()
            if count <= self._max_records and size <= self._max_bytes:
                return
            oldest = "SELECT id FROM records ORDER BY used LIMIT ?"
            surplus = max(1, count - self._max_records)
            self._execute(f"DELETE FROM records WHERE id IN ({oldest})", surplus)

    def _next_use(self) -> int:
        self._last_use += 1
        return self._last_use
