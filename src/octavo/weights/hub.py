"""Models of the Hugging Face Hub, through huggingface_hub: its cache, its environment variables, its tokens.

huggingface_hub is imported only here, and only when a model is asked for.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from octavo.errors import ModelNotFoundError, one_line
from octavo.weights.cache import FULL, check_room, no_room
from octavo.weights.selection import Selection

_ADVICE = "set HF_HOME, HF_HUB_CACHE or download_dir to another folder"
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


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
        return self._selection.path(self._snapshot(self.patterns, timeout))

    @property
    def _selection(self) -> Selection:
        return Selection(self.repository, self.file, self.quantization)

    @property
    def patterns(self) -> list[str]:
        """Of the names of the files that it is made of."""
        return self._selection.patterns()

    def pick(self, files: Iterable[str]) -> str:
        """The one file whose name ends with the quantization, or the first part of it. Raises ModelNotFoundError."""
        return self._selection.quantized(files)

    def _snapshot(self, patterns: list[str], timeout: float) -> Path:
        from huggingface_hub import HfApi, constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        options: dict[str, Any] = {"revision": self.revision, "cache_dir": self.cache, "allow_patterns": patterns}
        if not self.progress:
            options["tqdm_class"] = _silent_bar()
        reason = "the network is switched off (offline, or HF_HUB_OFFLINE)"
        if not self.offline:
            missing = None
            try:
                # One request without retries says whether the Hub answers, and whether the model is there.
                info = HfApi().model_info(self.repository, revision=self.revision, timeout=timeout, files_metadata=True)
                missing = self._missing(info, patterns)
                check_room(self.repository, missing, Path(self.cache or constants.HF_HUB_CACHE), _ADVICE)
                return Path(snapshot_download(self.repository, etag_timeout=timeout, **options))
            except Exception as error:
                if missing and isinstance(error, OSError) and error.errno in (*FULL, *_DENIED):
                    raise no_room(self.repository, "the Hub's cache", error, _ADVICE) from None
                raise_if_final(self.repository, self.revision, error)
                reason = f"the Hub can't be reached ({type(error).__name__}: {one_line(str(error))})"
        try:
            return Path(snapshot_download(self.repository, local_files_only=True, **options))
        except (LocalEntryNotFoundError, OSError, ValueError):
            raise ModelNotFoundError(
                f"{self.repository} is not in the Hub's cache, and {reason}; "
                "give the path of a local model, or download it where there is a network"
            ) from None

    def _missing(self, info: Any, patterns: list[str]) -> int:
        """Bytes of the files that are needed and not in the cache; of unfinished ones, all."""
        from huggingface_hub import try_to_load_from_cache

        missing = 0
        for file in info.siblings or []:
            if file.size and any(fnmatchcase(file.rfilename, pattern) for pattern in patterns):
                found = try_to_load_from_cache(self.repository, file.rfilename, self.cache, info.sha)
                missing += 0 if isinstance(found, str) else file.size
        return missing


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
