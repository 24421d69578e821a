"""Octavo's own cache folder: complete entries only, safe when several processes fill it at once."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from octavo.errors import ModelNotFoundError
from octavo.weights.progress import say, size_text

_held: dict[Path, int] = {}  # descriptors of folders, locked until the process ends
CACHE_ADVICE = "set OCTAVO_CACHE or download_dir to another folder"
FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_folder() -> Path:
    """OCTAVO_CACHE, or octavo under XDG_CACHE_HOME, or ~/.cache/octavo."""
    if own := os.environ.get("OCTAVO_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "octavo"


@contextmanager
def locked(folder: Path, name: str, waits: str | None = None) -> Iterator[None]:
    """Hold the lock `name` of a cache folder; waits while another process holds it, and says `waits` then.

    Raises ModelNotFoundError if the folder can't be written.
    """
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_lock(folder, name)
    try:
        with writable(folder):
            _lock(descriptor, waits)
        yield
    finally:
        os.close(descriptor)


def _open_lock(folder: Path, name: str) -> int:
    """Open for writing, which NFS demands of what it locks; users who share a folder may only be able to read it."""
    path, flags = folder / f".{name}.lock", os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | flags, 0o666)
    except OSError:
        return os.open(path, os.O_RDONLY | flags, 0o666)


def _lock(descriptor: int, waits: str | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waits is not None:
            say(waits)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def busy(folder: Path, name: str) -> Iterator[bool]:
    """Hold the lock `name` of a cache folder without waiting; yields whether another process holds it."""
    descriptor = _open_lock(folder, name)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = False
        except BlockingIOError:
            taken = True
        yield taken
    finally:
        os.close(descriptor)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn an OSError (read-only, full) into an error that names the folder and the way out."""
    try:
        yield
    except OSError as error:
        raise ModelNotFoundError(
            f"the cache folder {folder} can't be written ({error.strerror or error}): {CACHE_ADVICE}, "
            "or give the path of a model"
        ) from None


def check_room(what: str, missing: int, cache: Path, advice: str = CACHE_ADVICE) -> None:
    """Raises ModelNotFoundError if so many bytes of `what` do not fit on the disk of a cache, there or not yet."""
    folder = next((path for path in (cache, *cache.parents) if path.is_dir()), Path("/"))
    if missing > (free := shutil.disk_usage(folder).free):
        raise ModelNotFoundError(
            f"{what} needs {size_text(missing)} more, {size_text(free)} are free in {cache}: {advice}"
        )


def no_room(what: str, cache: str, error: OSError, advice: str = CACHE_ADVICE) -> ModelNotFoundError:
    """What to raise where a cache takes no more of `what`, and what it has of it is kept."""
    where = f" of {os.fsdecode(error.filename)}" if error.filename else ""
    state = "is full" if error.errno in FULL else "can't be written"
    reason = error.strerror or str(error) or type(error).__name__
    return ModelNotFoundError(f"{what}: {cache} {state} ({reason}{where}): {advice}; what is there is kept")


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder`, removed at the end with whatever was not published."""
    with writable(folder):
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def hold(folder: Path) -> bool:
    """Marks an entry of the cache as used, now and by this process for as long as that lives.

    False if it is not there, or if another process removes it just now.
    """
    with suppress(OSError):  # of a cache that can only be read
        os.utime(folder)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    if folder in _held and os.path.sameopenfile(_held[folder], descriptor):
        os.close(descriptor)
        return True
    with suppress(OSError):  # of a file system without locks
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
    _held[folder] = descriptor
    return folder.is_dir()


def remove_unheld(folder: Path) -> bool:
    """Removes an entry, at once for all who look for it; False if a process holds it. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        doomed = Path(tempfile.mkdtemp(prefix=".removed-", dir=folder.parent))
        os.replace(folder, doomed / "entry")
        shutil.rmtree(doomed)
    finally:
        os.close(descriptor)
    return True


def publish(source: Path, target: Path) -> None:
    """Give a finished file or folder its name, so that it is seen whole or not at all, even after a crash."""
    for path in sorted(source.rglob("*"), reverse=True) if source.is_dir() else []:
        _sync(path)
    _sync(source)
    os.replace(source, target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
