"""An empty cache, a server of files, and pauses that take no time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from file_server import FileServer, serving
from octavo.weights.sources import http, transfer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "VLLM_USE_MODELSCOPE", "MODELSCOPE_CACHE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http, "pause", lambda i, error: 0.0)
    monkeypatch.setattr(transfer, "pause", lambda i, error: 0.0)
    return tmp_path / "cache"


@pytest.fixture
def server() -> FileServer:
    return FileServer()


@pytest.fixture
def url(server: FileServer) -> Iterator[str]:
    with serving(server) as address:
        yield address
