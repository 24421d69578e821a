"""The entries of Octavo's cache that were fetched file by file: what they are, which are used, which are unfinished.

KEY@VERSION has the files of a model and a manifest that says where they came from; KEY.partial what there is so far.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.weights.sources.base import RemoteFile

MANIFEST = ".octavo.json"
PARTIAL = ".partial"  # the ending of the folder of an unfinished model, and of its unfinished files
_held: dict[Path, int] = {}  # descriptors of manifests, locked until the process ends


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in the cache, whole or not."""

    path: Path
    reference: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    @property
    def used(self) -> float:
        """When it was last asked for, in seconds since 1970."""
        return (self.path / MANIFEST).stat().st_mtime


def read_entry(folder: Path) -> Entry | None:
    """None if it is no entry."""
    try:
        said = json.loads((folder / MANIFEST).read_bytes())
        files = [RemoteFile(name, size, sha256, version) for name, size, sha256, version in said["files"]]
        return Entry(folder, str(said["reference"]), tuple(files))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_manifest(folder: Path, reference: str, files: Sequence[RemoteFile]) -> None:
    """Replaces it in one step."""
    text = json.dumps({"reference": reference, "files": [file.identity for file in files]})
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=MANIFEST, delete=False) as file:
        file.write(text)
    os.replace(file.name, folder / MANIFEST)


def finished(cache: Path, key: str) -> list[Path]:
    """The entries of a model, the one that was used last first."""
    found = [entry for folder in cache.glob(f"{key}@*") if (entry := read_entry(folder)) is not None]
    return [entry.path for entry in sorted(found, key=lambda entry: -entry.used)]


def hold(entry: Path) -> bool:
    """Marks it as used by this process for as long as that lives. False if another process removes it just now."""
    if entry in _held and (entry / MANIFEST).exists():
        return True
    try:
        descriptor = os.open(entry / MANIFEST, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        there = (entry / MANIFEST).exists()
    except OSError:  # someone removes it, or the file system has no locks
        there = False
    if not there:
        os.close(descriptor)
        return False
    _held[entry] = descriptor
    _touch(entry)
    return True


def remove(entry: Path) -> bool:
    """Removes an entry that no process holds; whether it did. Raises OSError."""
    descriptor = os.open(entry / MANIFEST, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    try:
        doomed = Path(tempfile.mkdtemp(prefix=".removed-", dir=entry.parent))
        os.replace(entry, doomed / "entry")  # at once, so that nobody sees half of it
        shutil.rmtree(doomed)
    finally:
        os.close(descriptor)
    return True


def _touch(entry: Path) -> None:
    with suppress(OSError):  # of a cache that can only be read
        os.utime(entry / MANIFEST, (time.time(), time.time()))


def version_of(files: Sequence[RemoteFile]) -> str:
    """Equal for equal files."""
    import hashlib

    text: Any = json.dumps(sorted([str(field) for field in file.identity] for file in files))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
