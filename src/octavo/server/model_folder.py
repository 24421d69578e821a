"""A folder of models: which are in it, looked at again only where something has changed."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = (".part", ".partial", ".tmp", ".temp", ".incomplete", ".download", ".crdownload")
DEPTH = 2  # folders of a name: name, or org/name


class ModelFolder:
    """Its folders with a config.json, and its .gguf files, by their names: name, org/name.

    Links are followed. What begins with a dot, or ends as files do that are still being written, is no model. A folder
    with weights and without a config.json is one, which can't be loaded and says so.
    """

    def __init__(self, path: str):
        self.path = Path(path).expanduser()
        self._times: dict[Path, int] = {}  # when each folder was changed that was looked into
        self._found: dict[str, Path] = {}

    def scan(self) -> dict[str, Path]:
        """The models by name. Of folders that nobody has changed, nothing but their times is read."""
        if not self._times or any(_changed_at(path) != then for path, then in self._times.items()):
            self._times, self._found = {}, {}
            self._look_into(self.path, "", DEPTH)
        return dict(self._found)

    def _look_into(self, folder: Path, prefix: str, depth: int) -> None:
        self._times[folder] = _changed_at(folder)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            path, name = folder / entry.name, f"{prefix}{entry.name}"
            if entry.name.startswith(".") or entry.name.endswith(PARTIAL):
                continue
            if entry.name.endswith(".gguf"):
                self._found.setdefault(name.removesuffix(".gguf"), path)
            elif entry.is_dir():
                self._take_folder(path, name, depth)

    def _take_folder(self, path: Path, name: str, depth: int) -> None:
        files = _names_in(path)
        if "config.json" in files or any(file.endswith((".safetensors", ".bin")) for file in files):
            self._times[path] = _changed_at(path)
            self._found[name] = path
        elif depth > 1:
            self._look_into(path, f"{name}/", depth - 1)
        else:
            self._times[path] = _changed_at(path)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _changed_at(path: Path) -> int:
    """In nanoseconds; 0 where there is nothing."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
