"""The folder of the store: one file for each block, written whole or not at all, the least recently used removed first.

Processes share it without locks. A file gets its name once it is complete, its name says what is in it, and whoever
misses one that another has removed computes that block.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from errno import EDQUOT, ENOENT, ENOSPC
from itertools import count
from pathlib import Path
from typing import NamedTuple

from octavo.errors import ConfigError
from octavo.prefix_store.entry import HEADER_BYTES, Bytes, DamagedError, header, read

VERSION = "octavo-prefix-1"  # the folder within the user's; files of other versions are in others
KINDS = ("kv", "state")  # keys and values of a block of tokens; what a model keeps of a sequence beside them
BEHIND = 2.0  # seconds that a block counts as used before the one in front of it
TOUCH_AFTER = 60.0  # seconds until a file that is used again counts as used again
ABANDONED = 600.0  # seconds after which a file that was never completed is nobody's
MARGIN = 16  # of the limit, one part in so many is made free at a time, and written before others' files are counted
_NAME = re.compile(rf"[0-9a-f]{{62}}\.(?:{'|'.join(KINDS)})")
_PAGE = 4096


class _File(NamedTuple):
    """A file of the store, in the order in which it is removed."""

    used: int  # ns
    size: int  # of the disk, bytes
    path: str


class Folder:
    """A store's files in `path`, at most `limit` bytes of them.

    They hold what was computed of users' texts: nobody but their owner may read them, or the owner's group where the
    folder that was given is open to it. Raises ConfigError if the folder can't be made, or written to.
    """

    def __init__(self, path: str | Path, limit: int):
        self.given, self.limit = Path(path).expanduser(), limit
        self.path = self.given / VERSION
        self._unfinished = self.path / "unfinished"
        self.notes = self.path / "files"  # digests of models' files; see `identity.digest_of`
        self._size: int | None = None  # of all files, as far as this process knows
        self._since_counted = 0  # bytes written
        try:
            self.given.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._for_group = stat.S_IMODE(self.given.stat().st_mode) & 0o2070
            self._make()
            self._write(self._unfinished, [b"x"], keep=False)
        except OSError as error:
            reason = f"can't be written ({error.strerror or error}); give a folder that can"
            raise ConfigError("prefix_cache_dir", str(path), reason) from None

    def place(self, key: bytes, kind: str) -> Path:
        """Where the file of a key is, or would be."""
        name = key.hex()
        return self.path / name[:2] / f"{name[2:]}.{kind}"

    def has(self, key: bytes, kind: str, num_bytes: int) -> bool:
        """Whether there is a file of that key and size."""
        try:
            return self.place(key, kind).stat().st_size == HEADER_BYTES + num_bytes
        except OSError:
            return False

    def read(self, key: bytes, kind: str, num_bytes: int, depth: int = 0) -> Bytes | None:
        """What is kept under a key: uint8 [num_bytes]; None if nothing is. It counts as used; see `touch`.

        Raises DamagedError for a file that is not what it should be, which is removed, and OSError.
        """
        path = self.place(key, kind)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            contents = read(descriptor, key, num_bytes)
        except DamagedError as error:
            with suppress(OSError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:  # nobody has written a better one meanwhile
                    path.unlink()
            raise DamagedError(f"{path}: {error}") from None
        finally:
            os.close(descriptor)
        self.touch(kind, [key], depth)
        return contents

    def write(self, key: bytes, kind: str, contents: Bytes, depth: int = 0) -> int:
        """Keeps contents under a key; returns the bytes written: 0 if there is such a file. Raises OSError."""
        if self.has(key, kind, contents.nbytes):
            self.touch(kind, [key], depth)
            return 0
        size = _on_disk(HEADER_BYTES + contents.nbytes)
        if size > self.limit:
            return 0
        if self._size is None or self._size + size > self.limit or self._since_counted > self.limit // MARGIN:
            self.trim(size)
        path = self.place(key, kind)
        parts: list[bytes | memoryview] = [header(key, contents), contents.data]
        for is_last in (False, False, True):
            try:
                self._write(path, parts, depth)
                break
            except OSError as error:
                if is_last or error.errno not in (ENOENT, ENOSPC, EDQUOT):
                    raise
                if error.errno == ENOENT:
                    self._make(path.parent)
                else:  # the disk has less room than the limit
                    self.trim(size, limit=self.trim())
        self._size = (self._size or 0) + size
        self._since_counted += size
        return HEADER_BYTES + contents.nbytes

    def touch(self, kind: str, keys: Sequence[bytes], depth: int = 0) -> None:
        """Files count as used, if they are there: the first now, each of the others a little earlier.

        They are of blocks of one text, `depth` blocks from its beginning on. Those behind are removed before those in
        front of them, without which they are of no use.
        """
        for path, used in zip((self.place(key, kind) for key in keys), _times(depth), strict=False):
            with suppress(OSError):
                if path.stat().st_mtime < used - TOUCH_AFTER:
                    os.utime(path, (used, used))

    def trim(self, room: int = 0, limit: int | None = None) -> int:
        """Counts all files, those of other processes too, and removes the least recently used for `room` more bytes.

        `limit` is one that is lower than the folder's. Returns the bytes that are left. Removes what was never
        completed, too; files that are not the store's are neither counted nor touched.
        """
        self._remove_abandoned()
        limit = self.limit if limit is None else limit
        files = sorted(self._files())
        size = sum(file.size for file in files)
        if size + room > limit:
            goal = limit - room - limit // MARGIN
            for file in files:
                if size <= max(goal, 0):
                    break
                with suppress(FileNotFoundError):
                    os.unlink(file.path)
                size -= file.size
        self._size, self._since_counted = size, 0
        return size

    @property
    def size(self) -> int:
        """Bytes of all files, as far as is known."""
        return self._size or 0

    def _files(self) -> Iterator[_File]:
        for folder in _entries(self.path):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            for entry in _entries(folder.path):
                if not _NAME.fullmatch(entry.name):
                    continue
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    yield _File(status.st_mtime_ns, _on_disk(status.st_size), entry.path)

    def _remove_abandoned(self) -> None:
        for entry in _entries(self._unfinished):
            with suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - ABANDONED:
                    os.unlink(entry.path)

    def _make(self, *folders: Path) -> None:
        """Makes the store's folders, in the one that was given; that is not made again if somebody removed it."""
        for folder in (self.path, self._unfinished, self.notes, *folders):
            with suppress(FileExistsError):
                folder.mkdir()
                folder.chmod(0o700 | self._for_group)

    def _write(self, path: Path, parts: list[bytes | memoryview], depth: int = 0, keep: bool = True) -> None:
        """Writes a file under another name, then gives it its own, unless it is not to be kept."""
        name = self._unfinished / f"{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                if self._for_group & 0o060:
                    os.fchmod(descriptor, 0o600 | (self._for_group & 0o060))
                for part in parts:
                    rest = memoryview(part).cast("B")
                    while rest:
                        rest = rest[file.write(rest) :]
            if keep:
                used = next(_times(depth))
                os.utime(name, (used, used))
                os.rename(name, path)
        finally:
            with suppress(OSError):
                os.unlink(name)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _times(depth: int) -> Iterator[float]:
    """When blocks of a text count as used that is used now, from one on."""
    return count(time.time() - depth * BEHIND, -BEHIND)


def _on_disk(size: int) -> int:
    """What a file of so many bytes takes."""
    return -(-size // _PAGE) * _PAGE
