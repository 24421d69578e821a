"""Models of ModelScope's hub, by its HTTP API. What its own client has fetched is used where there is no network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from octavo.errors import ConfigError, ModelNotFoundError
from octavo.weights.selection import Selection
from octavo.weights.sources.base import RemoteFile, Source, safe_name
from octavo.weights.sources.http import final, get_json, open_range

_HOST = "www.modelscope.cn"
_REVISION = "master"
_ADVICE = "; set MODELSCOPE_API_TOKEN to a token of your account"


class ModelScopeModel(Source):
    """A repository of ModelScope, or one .gguf file of it: `file`, or the one of a `quantization`."""

    def __init__(self, repository: str, revision: str | None, file: str | None, quantization: str | None):
        self._repository, self._revision = repository, revision or _REVISION
        self.reference = f"modelscope:{repository}" + (f"@{revision}" if revision else "")
        self.selection = Selection(self.reference, file, quantization)
        host = os.environ.get("MODELSCOPE_DOMAIN") or _HOST
        self._endpoint = (host if "://" in host else f"https://{host}").rstrip("/")
        self._api = f"{self._endpoint}/api/v1/models/{repository}/repo"

    @property
    def identity(self) -> str:
        chosen = self.selection.file or self.selection.quantization
        return f"{self.reference} {chosen}" if chosen else self.reference

    def list_files(self, timeout: float) -> list[RemoteFile]:
        query = urlencode({"Revision": self._revision, "Recursive": "True", "Root": ""})
        with final(self.reference, _ADVICE):
            answer = get_json(f"{self._api}/files?{query}", self._headers(), timeout=timeout)
        files = {file.name: file for file in map(self._read, _files_of(answer, self.reference)) if file is not None}
        return [files[name] for name in self.selection.choose(files)]

    @contextmanager
    def open(self, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        query = urlencode({"Revision": self._revision, "FilePath": file.name})
        url = f"{self._api}?{query}"
        with final(f"{self.reference}: {file.name}", _ADVICE), open_range(url, start, self._headers(), None) as opened:
            yield opened

    def fetched_elsewhere(self) -> Path | None:
        """Where ModelScope's own client has put the model, which writes ___ for a dot."""
        root = os.environ.get("MODELSCOPE_CACHE")
        cache = Path(root).expanduser() if root else Path.home() / ".cache" / "modelscope" / "hub"
        name = self._repository.replace(".", "___")
        if self._revision == _REVISION:
            for folder in (cache / "models" / name, cache / name):
                if folder.is_dir():
                    try:
                        return self.selection.path(folder)
                    except ModelNotFoundError:
                        continue
        return None

    def _headers(self) -> dict[str, str]:
        token = os.environ.get("MODELSCOPE_API_TOKEN")
        if not token:
            return {}
        if not re.fullmatch(r"[!-~]+", token) or ";" in token:
            raise ConfigError("MODELSCOPE_API_TOKEN", "…", "has characters that no token has")
        return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"}

    def _read(self, said: Any) -> RemoteFile | None:
        """One entry of the list; None of a folder."""
        try:
            if said.get("Type") == "tree":
                return None
            name, size, sha256 = said["Path"], said["Size"], said.get("Sha256") or None
            sound = isinstance(size, int) and size >= 0 and (sha256 is None or re.fullmatch(r"[0-9a-f]{64}", sha256))
            if sound and isinstance(name, str):
                return RemoteFile(safe_name(name), size, sha256, said.get("Revision") or None)
        except (KeyError, AttributeError, TypeError):
            pass
        raise ModelNotFoundError(f"{self.reference}: the list of its files has an entry without a path, size or hash")


def _files_of(answer: Any, reference: str) -> list[Any]:
    try:
        files = answer["Data"]["Files"]
        if isinstance(files, list):
            return files
    except (KeyError, TypeError):
        pass
    reason = answer.get("Message") if isinstance(answer, dict) else None
    raise ModelNotFoundError(f"{reference}: ModelScope gives no list of files ({str(reason)[:200]})")
