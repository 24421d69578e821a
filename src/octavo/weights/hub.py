"""Models of the Hugging Face Hub, through huggingface_hub: its cache, its environment variables, its tokens.

huggingface_hub is imported only here, and only when a reference names a model of the Hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from octavo.errors import ModelNotFoundError, one_line

# A model.bin is CTranslate2's; pickles have other names, and are refused under this one.
_PATTERNS = ["*.safetensors", "model.bin", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocabulary.txt"]
_SPLIT = re.compile(r"-[0-9]{5}-of-[0-9]{5}$")


def resolve_hub(
    repository: str,
    *,
    revision: str | None,
    file: str | None = None,
    quantization: str | None = None,
    cache: Path | None,
    offline: bool,
    progress: bool,
    timeout: float = 5.0,
) -> Path:
    """The snapshot folder of a repository, or one .gguf file of it: `file`, or the one of a `quantization`.

    `timeout` in seconds is for the first answer. Where there is none, what the Hub's cache holds is used.
    Raises ModelNotFoundError.
    """
    if file is not None:
        patterns = [file, _SPLIT.sub("-*-of-*", file.removesuffix(".gguf")) + ".gguf"]
    elif quantization is not None:
        patterns = [f"*{tag}*.gguf" for tag in sorted({quantization, quantization.upper(), quantization.lower()})]
    else:
        patterns = _PATTERNS
    folder = _snapshot(repository, revision, patterns, cache, offline, progress, timeout)
    if file is not None:
        if not (folder / file).is_file():
            raise ModelNotFoundError(f"{repository} has no file {file}")
        return folder / file
    if quantization is not None:
        return _pick(repository, folder, quantization)
    if not any(folder.glob("*.safetensors")) and not (folder / "model.bin").exists():
        raise ModelNotFoundError(
            f"{repository} has no safetensors; if it has GGUF files, pick one: {repository}:Q4_K_M or "
            f"{repository}/FILE.gguf (pickled weights, *.bin, are never loaded)"
        )
    return folder


def _pick(repository: str, folder: Path, quantization: str) -> Path:
    """The one file whose name ends with the quantization, or the first part of it."""
    ending = re.compile(rf"(^|[-._]){re.escape(quantization)}(-00001-of-[0-9]{{5}})?$", re.IGNORECASE)
    found = sorted(file for file in folder.rglob("*.gguf") if ending.search(file.stem))
    if len(found) != 1:
        names = ", ".join(str(file.relative_to(folder)) for file in found[:8]) or "none"
        raise ModelNotFoundError(
            f"{repository} must have one GGUF file of quantization {quantization}, found {names}; "
            f"name the file: {repository}/FILE.gguf"
        )
    return found[0]


def _snapshot(
    repository: str,
    revision: str | None,
    patterns: list[str],
    cache: Path | None,
    offline: bool,
    progress: bool,
    timeout: float,
) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    options: dict[str, Any] = {"revision": revision, "cache_dir": cache, "allow_patterns": patterns}
    if not progress:
        options["tqdm_class"] = _silent_bar()
    reason = "the network is switched off (offline, or HF_HUB_OFFLINE)"
    if not offline:
        try:
            # One request without retries says whether the Hub answers, and whether the model is there.
            HfApi().model_info(repository, revision=revision, timeout=timeout)
            return Path(snapshot_download(repository, etag_timeout=timeout, **options))
        except Exception as error:
            _raise_if_final(repository, revision, error)
            reason = f"the Hub can't be reached ({type(error).__name__}: {one_line(str(error))})"
    try:
        return Path(snapshot_download(repository, local_files_only=True, **options))
    except (LocalEntryNotFoundError, OSError, ValueError):
        raise ModelNotFoundError(
            f"{repository} is not in the Hub's cache, and {reason}; "
            "give the path of a local model, or download it where there is a network"
        ) from None


def _raise_if_final(repository: str, revision: str | None, error: Exception) -> None:
    """Raise for answers of the Hub that say no. What is left are failures to get an answer."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        reason = "asks for its licence to be accepted on its page; then set HF_TOKEN to a token of your account"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "does not exist on the Hub, or is private: check the name, or set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"has no revision {revision}"
    elif isinstance(error, HFValidationError):
        reason = "is not the name of a model on the Hub"
    elif not isinstance(error, (OSError, TimeoutError)) and not _is_http_failure(error):
        raise error
    else:
        return
    raise ModelNotFoundError(f"{repository} {reason}") from None


def _is_http_failure(error: Exception) -> bool:
    """Whether it comes from the HTTP client, whichever huggingface_hub uses (requests, httpx, httpx2)."""
    return any(cls.__module__.split(".")[0].startswith(("httpx", "requests")) for cls in type(error).__mro__)


def _silent_bar() -> type[Any]:
    from tqdm.auto import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent
