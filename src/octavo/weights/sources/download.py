"""Fetching a model file by file: a few at a time, resumed where it was cut off, checked, published when it is whole."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from octavo.errors import ModelNotFoundError
from octavo.weights.cache import check_room, hold, locked, no_room, publish, remove_unheld, writable
from octavo.weights.progress import download_bar, say, size_text
from octavo.weights.sources import entries
from octavo.weights.sources.base import MOST_FILES, RemoteFile, Source, UnavailableError, safe_name
from octavo.weights.sources.http import retrying
from octavo.weights.sources.transfer import receive
from octavo.weights.sources.unpack import unpack

_AT_ONCE = 4  # files


def fetch(source: Source, cache: Path, *, offline: bool, progress: bool, timeout: float = 5.0) -> Path:
    """The folder with a model's files. What is cached is used if it is current, or if nobody can be asked.

    Raises ModelNotFoundError.
    """
    known = [entry for entry in entries.finished(cache, source.key) if entries.is_whole(entry)]
    if known and (offline or source.pinned) and hold(known[0]):
        return known[0]
    if offline:
        reason = f"{source.reference} is not in the cache {cache}, and the network is switched off"
        raise ModelNotFoundError(reason, is_uncached=True)
    try:
        files = retrying(lambda: source.list_files(timeout), tries=1 if known else 3)
    except UnavailableError as error:
        reason = str(error).removeprefix(f"{source.reference}: ")
        if known and hold(known[0]):
            say(f"{source.reference} can't be reached ({reason}); using the copy in the cache")
            return known[0]
        raise ModelNotFoundError(f"{source.reference} can't be reached: {reason}") from None
    _check_list(source, files)
    entry = cache / f"{source.key}@{entries.version_of(files)}"
    if entry in known and hold(entry):
        return entry
    waits = f"another process fetches {source.reference}; waiting for it" if progress else None
    with locked(cache, source.key, waits):
        if not entries.is_whole(entry) or not hold(entry):  # another process may have been faster
            _Download(source, files, cache, progress).run(entry)
            hold(entry)
            _drop_older(cache, source.key, entry)
    return entry


def _check_list(source: Source, files: Sequence[RemoteFile]) -> None:
    if len(files) > MOST_FILES:
        raise ModelNotFoundError(f"{source.reference} has {len(files)} files, which are too many for a model")
    names = [safe_name(file.name) for file in files]
    if not names or len(set(names)) != len(names):
        raise ModelNotFoundError(f"{source.reference} has {'two files of one name' if names else 'no files'}")


def _drop_older(cache: Path, key: str, current: Path) -> None:
    """Versions that nobody uses any more."""
    for entry in entries.finished(cache, key):
        if entry != current:
            with suppress(OSError):
                remove_unheld(entry)


@dataclass
class _Download:
    source: Source
    files: Sequence[RemoteFile]
    cache: Path
    progress: bool
    stop: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None

    def run(self, entry: Path) -> None:
        """Makes `entry`. What was fetched stays if that fails."""
        folder = self.cache / f"{self.source.key}{entries.PARTIAL}"
        with writable(self.cache):
            folder.mkdir(exist_ok=True)
            self._forget_what_changed(folder)
            entries.write_manifest(folder, self.source.reference, self.files)
        self._check_room(folder)
        total = sum(file.size or 0 for file in self.files)
        title = f"fetching {self.source.reference}"
        with download_bar(title, total, total - self._missing(folder), enabled=self.progress) as advance:
            self._fetch_all(folder, advance)
        try:
            unpack([file for file in self.files if file.archive], folder)
            self.source.selection.path(folder)
            with writable(self.cache):
                if entry.exists():  # and is damaged
                    shutil.rmtree(entry)
                publish(folder, entry)
        except OSError as error:
            raise self._no_room(folder, error) from None

    def _forget_what_changed(self, folder: Path) -> None:
        """Of an earlier attempt, files stay that the source still has as they were."""
        before = entries.read_entry(folder)
        had = [file.identity for file in before.files] if before else []
        kept = {folder / entries.MANIFEST}
        for file in self.files:
            if file.identity in had and (file.sha256 is not None or file.version is not None):
                kept |= {folder / file.name, _partial(folder, file)}
        for path in list(folder.rglob("*")):
            if path not in kept and not path.is_dir():
                path.unlink()

    def _missing(self, folder: Path) -> int:
        """Bytes that are still to be fetched."""
        return sum(max(0, (file.size or 0) - _have(folder, file)) for file in self.files)

    def _check_room(self, folder: Path) -> None:
        unpacked = sum(file.size or 0 for file in self.files if file.archive)
        check_room(self.source.reference, self._missing(folder) + unpacked, self.cache)

    def _no_room(self, folder: Path, error: OSError) -> ModelNotFoundError:
        what = f"{size_text(self._missing(folder))} of {self.source.reference} are missing"
        return no_room(what, f"the cache folder {self.cache}", error)

    def _fetch_all(self, folder: Path, advance: Callable[[int], object]) -> None:
        """A few files at a time, the largest first. The first failure stops all."""
        waiting: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
        for file in sorted(self.files, key=lambda file: -(file.size or 0)):
            waiting.put(file)
        # Daemons, so that Ctrl-C needs not wait for an answer from the network.
        work = (folder, waiting, advance)
        count = min(_AT_ONCE, len(self.files))
        threads = [threading.Thread(target=self._work, args=work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self.stop.set()
        if isinstance(self.failure, UnavailableError):
            raise ModelNotFoundError(
                f"{self.source.reference}: {self.failure}; {size_text(self._missing(folder))} are missing, what is "
                "there is kept, the next attempt goes on from it"
            )
        if isinstance(self.failure, OSError):
            raise self._no_room(folder, self.failure) from None
        if self.failure is not None:
            raise self.failure

    def _work(self, folder: Path, waiting: queue.SimpleQueue[RemoteFile], advance: Callable[[int], object]) -> None:
        try:
            while not self.stop.is_set():
                self._fetch(waiting.get_nowait(), folder, advance)
        except queue.Empty:
            return
        except BaseException as error:
            self.failure = self.failure or error
            self.stop.set()

    def _fetch(self, file: RemoteFile, folder: Path, advance: Callable[[int], object]) -> None:
        target, partial = folder / file.name, _partial(folder, file)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if receive(self.source, file, partial, advance, self.stop):
                os.replace(partial, target)


def _partial(folder: Path, file: RemoteFile) -> Path:
    return folder / f"{file.name}{entries.PARTIAL}"


def _have(folder: Path, file: RemoteFile) -> int:
    for path in (folder / file.name, _partial(folder, file)):
        with suppress(OSError):
            return path.stat().st_size
    return 0
