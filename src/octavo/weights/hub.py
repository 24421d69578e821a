"""Models of the Hugging Face Hub, through huggingface_hub: its cache, its environment variables, its tokens.

huggingface_hub is imported only here, and only when a model is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from octavo.errors import ModelNotFoundError, one_line

# A model.bin is CTranslate2's; pickles have other names, and are refused under this one.
PATTERNS = [
    "*.safetensors", "model.bin", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocabulary.txt",
    "colbert_linear.pt", "sparse_linear.pt",
]  # fmt: skip
_SPLIT = re.compile(r"-[0-9]{5}-of-[0-9]{5}$")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository of the Hub, or one .gguf file of it: `file`, or the one of a `quantization`."""

    repository: str
    revision: str | None
    file: str | None
    quantization: str | None
    cache: Path | None  # instead of the Hub's own
    offline: bool
    progress: bool

    def resolve(self, timeout: float = 5.0) -> Path:
        """The snapshot folder, or the file in it. Raises ModelNotFoundError.

        `timeout` in seconds is for the first answer. Where there is none, what the Hub's cache holds is used.
        """
        if self.file is not None:
            folder = self._snapshot(self.patterns, timeout)
            if not (folder / self.file).is_file():
                raise ModelNotFoundError(f"{self.repository} has no file {self.file}")
            return folder / self.file
        if self.quantization is not None:
            folder = self._snapshot(self.patterns, timeout)
            return folder / self.pick([str(file.relative_to(folder)) for file in folder.rglob("*.gguf")])
        folder = self._snapshot(self.patterns, timeout)
        if not any(folder.glob("*.safetensors")) and not (folder / "model.bin").exists():
            raise ModelNotFoundError(
                f"{self.repository} has no safetensors; if it has GGUF files, pick one: {self.repository}:Q4_K_M or "
                f"{self.repository}/FILE.gguf (pickled weights, *.bin, are never loaded)"
            )
        return folder

    @property
    def patterns(self) -> list[str]:
        """Of the names of the files that it is made of."""
        if self.file is not None:
            return [self.file, _SPLIT.sub("-*-of-*", self.file.removesuffix(".gguf")) + ".gguf"]
        if self.quantization is not None:
            tags = {self.quantization, self.quantization.upper(), self.quantization.lower()}
            return [f"*{tag}*.gguf" for tag in sorted(tags)]
        return PATTERNS

    def pick(self, files: Iterable[str]) -> str:
        """The one file whose name ends with the quantization, or the first part of it. Raises ModelNotFoundError."""
        ending = re.compile(rf"(^|[-._]){re.escape(self.quantization or '')}(-00001-of-[0-9]{{5}})?$", re.IGNORECASE)
        found = sorted(file for file in files if ending.search(PurePosixPath(file).stem))
        if len(found) != 1:
            names = ", ".join(found[:8]) or "none"
            raise ModelNotFoundError(
                f"{self.repository} must have one GGUF file of quantization {self.quantization}, found {names}; "
                f"name the file: {self.repository}/FILE.gguf"
            )
        return found[0]

    def _snapshot(self, patterns: list[str], timeout: float) -> Path:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        options: dict[str, Any] = {"revision": self.revision, "cache_dir": self.cache, "allow_patterns": patterns}
        if not self.progress:
            options["tqdm_class"] = _silent_bar()
        reason = "the network is switched off (offline, or HF_HUB_OFFLINE)"
        if not self.offline:
            try:
                # One request without retries says whether the Hub answers, and whether the model is there.
                HfApi().model_info(self.repository, revision=self.revision, timeout=timeout)
                return Path(snapshot_download(self.repository, etag_timeout=timeout, **options))
            except Exception as error:
                raise_if_final(self.repository, self.revision, error)
                reason = f"the Hub can't be reached ({type(error).__name__}: {one_line(str(error))})"
        try:
            return Path(snapshot_download(self.repository, local_files_only=True, **options))
        except (LocalEntryNotFoundError, OSError, ValueError):
            raise ModelNotFoundError(
                f"{self.repository} is not in the Hub's cache, and {reason}; "
                "give the path of a local model, or download it where there is a network"
            ) from None


def raise_if_final(repository: str, revision: str | None, error: Exception) -> None:
    """Raise for answers of the Hub that say no. What is left are failures to get an answer."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        reason = "asks for its licence to be accepted on its page; then set HF_TOKEN to a token of your account"
    elif isinstance(error, hub.RepositoryNotFoundError):
        reason = "does not exist on the Hub, or is private: check the name, or set HF_TOKEN"
    elif isinstance(error, hub.RevisionNotFoundError):
        reason = f"has no revision {revision}"
    elif isinstance(error, hub.HFValidationError):
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
