"""What a place that models are fetched from has to do: say which files there are, and give their bytes."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from octavo.errors import ModelNotFoundError, one_line
from octavo.weights.selection import Selection

CHUNK = 1 << 20  # bytes that are read at once
MOST_FILES = 100_000


class UnavailableError(Exception):
    """There is no answer now, which may pass: the network, or the other side. `wait` is how long it asks to, in s."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(one_line(reason))
        self.wait = wait


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a model where it comes from."""

    name: str  # its path in the model's folder
    size: int | None  # bytes; None where the source doesn't say
    sha256: str | None = None  # in hexadecimal digits
    version: str | None = None  # is another one when the content is: an ETag, a date
    place: str = ""  # what the source knows it by: a URL, a key, a digest
    archive: str | None = None  # "tar" or "tar+gzip": what is in it belongs to the model, not itself
    within: str = ""  # the folder of the archive that the model is in

    @property
    def identity(self) -> list[str | int | None]:
        """Equal for equal contents, as JSON has it."""
        return [self.name, self.size, self.sha256, self.version, self.archive]


class Source(ABC):
    """A model at its place.

    `reference` names it for users, without what is secret in it. `pinned` says that it never changes, as when a digest
    is part of the reference.
    """

    reference: str
    pinned = False
    selection: Selection

    @property
    def identity(self) -> str:
        """What distinguishes it from all other models."""
        return self.reference

    @property
    def key(self) -> str:
        """The beginning of its folder's name in a cache."""
        readable = re.sub(r"[^A-Za-z0-9._]+", "--", self.reference.split("?")[0])[-80:].strip("-.")
        return f"{readable}-{hashlib.sha256(self.identity.encode()).hexdigest()[:8]}"

    def fetched_elsewhere(self) -> Path | None:
        """Where another program has put the model on this machine, if one has."""
        return None

    @abstractmethod
    def list_files(self, timeout: float) -> list[RemoteFile]:
        """The files that the model needs. `timeout` in seconds is for each answer.

        Raises ModelNotFoundError if there is no such model, UnavailableError if nobody answers.
        """

    @abstractmethod
    def open(self, file: RemoteFile, start: int) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """Where its bytes begin, and the bytes: from `start`, or from 0 where it can't begin there, or has changed.

        Raises as list_files does, also while it is read.
        """


def safe_name(name: str) -> str:
    """`name`, if it stays in the folder that it is put into. Raises ModelNotFoundError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable() or not path.name:
        raise ModelNotFoundError(f"the source has a file with the unsafe path {one_line(repr(name))}")
    if len(name) > 1000 or path.name.startswith(".octavo") or any(len(part.encode()) > 240 for part in path.parts):
        raise ModelNotFoundError(f"the source has a file with the unusual path {one_line(repr(name))}")
    return str(path)
