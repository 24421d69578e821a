"""What is in the caches of models: Octavo's own, with what pip and other sources gave, and the Hub's."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.weights.cache import busy, cache_folder, remove_unheld, writable
from octavo.weights.sources import entries

_LEFTOVER = re.compile(r"\.(partial|removed)-")  # folders of processes that were killed
_STALE = 24 * 3600.0  # seconds after which such a folder belongs to nobody
_ENTRY = re.compile(r"(?P<key>.+-[0-9a-f]{8})@[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Cached:
    """A model in a cache; what is `missing` of it, in bytes, makes it unfinished (-1: nobody knows how much)."""

    name: str  # what it was asked for as
    source: str  # hub, package, url, s3, gs, oci, modelscope
    path: Path
    size: int  # bytes on the disk
    files: int
    used: float  # seconds since 1970
    missing: int = 0

    @property
    def complete(self) -> bool:
        return self.missing == 0


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that models or what is known of them is kept in."""

    name: str
    path: Path
    size: int  # bytes
    models: int
    said_by: str  # what moves it elsewhere


def list_models(cache: Path | None = None) -> list[Cached]:
    """The models in `cache`, or in Octavo's and the Hub's, unfinished ones too, by their names."""
    found = [*_own(cache or cache_folder()), *_of_hub(cache)]
    return sorted(found, key=lambda one: (one.name, not one.complete))


def list_folders(cache: Path | None = None) -> list[Folder]:
    """The folders of the caches. What is in Octavo's beside models are notes and measurements."""
    own, models = cache or cache_folder(), list_models(cache)
    hub = [one for one in models if one.source == "hub"]
    mine = [one for one in models if one.source != "hub"]
    models_size = sum(one.size for one in mine)
    setting = "--download-dir" if cache else "OCTAVO_CACHE"
    folders = [Folder("models of other sources", own, models_size, len(mine), setting)]
    leftovers = sum(_size(path) for path in _leftovers(own, 0.0))
    if leftovers:
        folders.append(Folder("left by killed processes", own, leftovers, 0, setting))
    hub_folder = cache or _hub_folder()
    rest = _size(own) - models_size - leftovers - (sum(one.size for one in hub) if hub_folder == own else 0)
    folders.append(Folder("notes, measurements", own, max(0, rest), 0, setting))
    folders.append(
        Folder("the Hub's", hub_folder, sum(one.size for one in hub), len(hub), (cache and setting) or "HF_HOME")
    )
    scope = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub").expanduser()
    if scope.is_dir():
        folders.append(Folder("ModelScope's own client's", scope, _size(scope), 0, "MODELSCOPE_CACHE"))
    return folders


def remove(model: Cached) -> bool:
    """Removes a model; False if a process uses or fetches it. Raises ModelNotFoundError if it can't be removed."""
    folder = model.path.parent
    with writable(folder):
        if model.source == "hub":
            _remove_of_hub(model)
            return True
        if model.source == "package" or _ENTRY.fullmatch(model.path.name):
            return remove_unheld(model.path)
        with busy(folder, model.path.name.removesuffix(entries.PARTIAL)) as is_busy:
            if not is_busy:
                shutil.rmtree(model.path)
            return not is_busy


def remove_leftovers(cache: Path | None = None) -> int:
    """Removes what killed processes left a day ago or earlier; how many bytes that were."""
    total = 0
    for path in _leftovers(cache or cache_folder(), _STALE):
        size = _size(path)
        with suppress(OSError):
            shutil.rmtree(path)
            total += size
    return total


def _own(cache: Path) -> Iterator[Cached]:
    try:
        paths = sorted(cache.iterdir())
    except OSError:  # there is none
        return
    for path in paths:
        with suppress(OSError):  # removed just now, or nobody may read it
            if (one := _read_own(path)) is not None:
                yield one


def _read_own(path: Path) -> Cached | None:
    """A model of Octavo's cache; None if that is none. Raises OSError."""
    if (entry := entries.read_entry(path)) is None:
        if not (path.name.startswith("pypi--") and path.is_dir()):
            return None
        name = path.name.replace("pypi--", "pypi:", 1)
        return Cached(name, "package", path, _size(path), _count(path), path.stat().st_mtime)
    size, missing = _size(path), 0
    if _ENTRY.fullmatch(path.name) is None:
        wanted = [file.size for file in entry.files if file.size is not None]
        missing = max(1, sum(wanted) - size) if len(wanted) == len(entry.files) else -1
    return Cached(entry.reference, _source(entry.reference), path, size, _count(path), entry.used, missing)


def _source(reference: str) -> str:
    scheme = reference.partition(":")[0]
    return "url" if scheme in ("http", "https") else scheme


def _of_hub(cache: Path | None) -> Iterator[Cached]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories: Any = scan_cache_dir(cache or _hub_folder()).repos
    except (CacheNotFound, OSError, ValueError):  # there is none
        return
    for one in repositories:
        if one.repo_type == "model":
            begun = [path.stat().st_size for path in Path(one.repo_path).glob("blobs/*.incomplete")]
            size = one.size_on_disk + sum(begun)
            if size:
                yield Cached(
                    one.repo_id, "hub", Path(one.repo_path), size, one.nb_files, one.last_accessed, -len(begun[:1])
                )


def _hub_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _remove_of_hub(model: Cached) -> None:
    """Its folder as a whole: copies of a repository have revisions of one name, by which huggingface_hub removes."""
    shutil.rmtree(model.path)
    shutil.rmtree(model.path.parent / ".locks" / model.path.name, ignore_errors=True)


def _leftovers(cache: Path, age: float) -> list[Path]:
    try:
        found = [path for path in cache.iterdir() if _LEFTOVER.match(path.name)]
        return [path for path in found if time.time() - path.stat().st_mtime >= age]
    except OSError:
        return []


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def _count(folder: Path) -> int:
    return sum(len([name for name in names if name != entries.MANIFEST]) for _, _, names in os.walk(folder))
