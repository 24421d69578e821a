"""The entries of Octavo's cache that were fetched file by file: what they are, which are used, which are unfinished.

KEY@VERSION has the files of a model and a manifest that says where they came from; KEY.partial what there is so far.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.weights.sources.base import RemoteFile

MANIFEST = ".octavo.json"
PARTIAL = ".partial"  # the ending of the folder of an unfinished model, and of its unfinished files


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in the cache, whole or not."""

    path: Path
    reference: str
    files: tuple[RemoteFile, ...]

    @property
    def used(self) -> float:
        """When it was last asked for, or written to, in seconds since 1970."""
        return max(path.stat().st_mtime for path in (self.path, *self.path.glob(f"*{PARTIAL}")))


def read_entry(folder: Path) -> Entry | None:
    """None if it is no entry."""
    try:
        said = json.loads((folder / MANIFEST).read_bytes())
        files = [
            RemoteFile(name, size, sha256, version, "", archive)
            for name, size, sha256, version, archive in said["files"]
        ]
        return Entry(folder, str(said["reference"]), tuple(files))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_manifest(folder: Path, reference: str, files: Sequence[RemoteFile]) -> None:
    """Replaces it in one step."""
    text = json.dumps({"reference": reference, "files": [file.identity for file in files]})
    draft = folder / f"{MANIFEST}{PARTIAL}"
    draft.write_text(text)  # nobody else writes here, as the model is locked
    os.replace(draft, folder / MANIFEST)


def finished(cache: Path, key: str) -> list[Path]:
    """The entries of a model, the one that was used last first."""
    found = [entry for folder in cache.glob(f"{key}@*") if (entry := read_entry(folder)) is not None]
    return [entry.path for entry in sorted(found, key=lambda entry: -entry.used)]


def is_whole(entry: Path) -> bool:
    """Whether all its files are there, as long as they were."""
    said = read_entry(entry)
    return said is not None and all(file.archive or _fits(entry / file.name, file.size) for file in said.files)


def _fits(path: Path, size: int | None) -> bool:
    try:
        return size is None or path.stat().st_size == size
    except OSError:
        return False


def version_of(files: Sequence[RemoteFile]) -> str:
    """Equal for equal files."""
    import hashlib

    text: Any = json.dumps(sorted([str(field) for field in file.identity] for file in files))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
