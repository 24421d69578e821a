"""Opens what is planned: local files, or the headers of those on the Hub, or a configuration alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from octavo.engine.memory import show
from octavo.errors import ModelLoadError, ModelNotFoundError
from octavo.models import open_model
from octavo.plan.declared import open_config
from octavo.weights import DEFAULT_MODEL, Checkpoint, resolve
from octavo.weights.known import PACKAGES, public_name
from octavo.weights.source import find_source, hub_model, offline_by_environment


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint, and where what is known of it comes from."""

    checkpoint: Checkpoint
    origin: str
    to_fetch: int = 0  # bytes of weights that are not here


@contextmanager
def opened(
    reference: str | None, config: str | None, *, revision: str | None = None, cache_dir: str | None = None
) -> Iterator[Opened]:
    """Nothing of weights is fetched. Raises ModelNotFoundError, ModelLoadError or ConfigError."""
    if config is not None:
        file = Path(config).expanduser()
        if not file.exists():
            raise ModelNotFoundError(f"--config {config}: there is no such file")
        yield Opened(open_config(file), f"{file} alone, without weights")
        return
    path = _local(reference, revision, cache_dir)
    broken = None
    if path is not None:
        try:
            here = Opened(open_model(path), f"files in {path}" if path.is_dir() else f"file {path}")
        except ModelLoadError as error:
            if offline_by_environment() or not _is_of_hub(reference, revision):
                raise
            broken = error  # such as what an interrupted fetch has left
        else:
            yield here
            return
    from octavo.plan.remote import RemoteModel

    reference = DEFAULT_MODEL if reference is None else reference
    try:
        remote = RemoteModel(hub_model(reference, revision, None, offline=False, progress=False))
    except ModelNotFoundError as error:
        raise (broken or error) from None
    with tempfile.TemporaryDirectory(prefix="octavo-plan-") as folder:
        path = remote.sketch(Path(folder))
        try:
            checkpoint = open_model(path)
        except ModelLoadError as error:
            name = error.file.removeprefix(folder).lstrip("/")
            raise ModelLoadError(f"{reference}: {name}", error.field, error.reason) from None
        read = f"{show(remote.num_bytes_read)} of headers from the Hub"
        yield Opened(checkpoint, f"{read}; {show(remote.weight_bytes)} are to be fetched", remote.weight_bytes)


def _is_of_hub(reference: str | None, revision: str | None) -> bool:
    """Whether a model that is on this machine came from the Hub."""
    if reference is None:
        return True
    if reference.startswith(("pypi:", "file:")) or Path(reference).expanduser().exists():
        return False
    return find_source(reference, revision) is None


def _local(reference: str | None, revision: str | None, cache_dir: str | None) -> Path | None:
    """Where the model is on this machine; None if it has to be asked for on the Hub."""
    try:
        return resolve(reference, revision=revision, cache_dir=cache_dir, offline=True, progress=False)
    except ModelNotFoundError as error:
        if reference is not None and find_source(reference, revision) is not None:
            if not error.is_uncached:
                raise
            name = public_name(reference)
            way = f"octavo pull {name} fetches it, and then it can be planned"
            raise ModelNotFoundError(f"{name} is not cached, and headers are read of the Hub alone; {way}") from None
        if reference is not None and reference.startswith("pypi:"):
            raise _of_package(reference, error) from None
        hub_model(reference or DEFAULT_MODEL, revision, None, offline=True, progress=False)
        if offline_by_environment():
            from octavo.plan.remote import what_is_here

            name = reference or DEFAULT_MODEL
            reason = "is not cached, and the network is switched off (HF_HUB_OFFLINE)"
            raise ModelNotFoundError(f"{name} {reason}; {what_is_here()}") from None
        return None


def _of_package(reference: str, error: ModelNotFoundError) -> ModelNotFoundError:
    if not error.is_uncached:
        return error
    ways = f"octavo pull {reference} fetches it; octavo plan --config config.json needs no weights"
    known = [name for name, package in PACKAGES.items() if package.name == reference[5:].partition("==")[0]]
    ways += f"; so does octavo plan {known[0]}, from the Hub's headers" if known else ""
    return ModelNotFoundError(f"{reference} is not in the cache, and a package has no header to read alone; {ways}")
