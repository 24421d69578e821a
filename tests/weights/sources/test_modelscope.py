"""Models of ModelScope's hub, by a server that speaks as it does."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from file_server import FileServer, serving
from octavo.errors import ConfigError, ModelNotFoundError
from octavo.weights.source import resolve

MODEL = b"GGUF" + bytes(range(256)) * 4000
FOLDER = {"config.json": b"{}", "model.safetensors": MODEL, "tokenizer.json": b"[]"}


class ModelScope(FileServer):
    """`repositories` by their names, each with its files by revision."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.falsified: dict[str, Any] = {}  # fields of the entries of a list
        self.token: str | None = None

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.paths.append(request.path)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.say(request, 403)
        repository, _, rest = parts.path.removeprefix("/api/v1/models/").partition("/repo")
        files = self.repositories.get(repository, {}).get(asked["Revision"])
        if files is None or (not rest and asked["FilePath"] not in files):
            return self.say(request, 404)
        if not rest:
            return self.give(request, asked["FilePath"], files[asked["FilePath"]])
        found = [self.entry(name, content) for name, content in files.items()]
        body = {"Code": 200, "Data": {"Files": [{"Type": "tree", "Path": "folder"}, *found]}, "Success": True}
        self.say(request, 200, json.dumps(body).encode())

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        return {"Type": "blob", "Path": name, "Size": len(content), "Sha256": sha256} | self.falsified


@pytest.fixture
def server() -> ModelScope:
    return ModelScope()


@pytest.fixture(autouse=True)
def hub(server: ModelScope, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_DOMAIN", url)
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    server.repositories["org/name"] = {"master": FOLDER | {"pytorch_model.bin": b"evil"}, "v1": FOLDER}


def get(reference: str | None, **options: Any) -> Path:
    return resolve(reference, progress=False, **options)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".octavo.json"}


@pytest.mark.parametrize("reference", ["modelscope:org/name", "modelscope://org/name", "org/name"])
def test_a_repository(reference: str, server: ModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    if reference == "org/name":
        monkeypatch.setenv("VLLM_USE_MODELSCOPE", "True")
    path = get(reference)
    assert files_in(path) == FOLDER
    assert get(reference) == path
    assert sum(server.sent.values()) == sum(map(len, FOLDER.values()))


def test_revisions(server: ModelScope) -> None:
    assert files_in(get("modelscope:org/name@v1")) == FOLDER
    assert get("modelscope:org/name", revision="v1") == get("modelscope:org/name@v1") != get("modelscope:org/name")
    with pytest.raises(ModelNotFoundError, match=r"modelscope:org/name@v2 does not exist"):
        get("modelscope:org/name@v2")
    with pytest.raises(ConfigError, match="revision"):
        get("modelscope:org/name@v1", revision="v2")


def test_gguf_files_by_name_or_quantization(server: ModelScope) -> None:
    server.repositories["o/g"] = {"master": {"m-Q4_K_M.gguf": MODEL, "m-Q8_0.gguf": MODEL + b"8"}}
    assert get("modelscope:o/g/m-Q8_0.gguf").read_bytes() == MODEL + b"8"
    assert get("modelscope:o/g:q4_k_m").read_bytes() == MODEL
    for rest, message in ((":Q2_K", "found none"), ("/x.gguf", r"has no file x\.gguf"), ("", r"modelscope:o/g:Q4_K_M")):
        with pytest.raises(ModelNotFoundError, match=message):
            get(f"modelscope:o/g{rest}")


def test_a_token_is_sent_and_asked_for(server: ModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "secret"
    with pytest.raises(ModelNotFoundError, match=r"access is denied.*MODELSCOPE_API_TOKEN"):
        get("modelscope:org/name")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "secret")
    assert files_in(get("modelscope:org/name")) == FOLDER
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "a\r\nb: c")
    with pytest.raises(ConfigError, match="MODELSCOPE_API_TOKEN"):
        get("modelscope:org/name")


@pytest.mark.parametrize(
    ("falsified", "message"),
    [
        ({"Sha256": "0" * 64}, "has SHA-256 .*, not 0{64}; it was not kept"),
        ({"Size": 1}, "longer than the 1 bytes"),
        ({"Size": "1"}, "without a path, size or hash"),
        ({"Sha256": "x"}, "without a path, size or hash"),
        ({"Path": "../x.json"}, "unsafe path"),
        ({"Path": "model.safetensors"}, "unsafe|two files|SHA-256|longer"),
    ],
)
def test_lists_that_lie(falsified: dict[str, Any], message: str, server: ModelScope, cache: Path) -> None:
    server.falsified = falsified
    with pytest.raises(ModelNotFoundError, match=message):
        get("modelscope:org/name")
    assert not list(cache.glob("*@*"))


def test_answers_that_are_none(server: ModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    for body in (b"<html>", b"[]", b'{"Data": null, "Message": "busy"}'):
        monkeypatch.setattr(server, "answer", lambda request, body=body: server.say(request, 200, body))
        with pytest.raises(ModelNotFoundError, match=r"no JSON|no list of files"):
            get("modelscope:org/name")


def test_what_its_own_client_has_fetched_serves_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ms" / "models" / "org" / "name-1___5"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    assert get("modelscope:org/name-1.5", offline=True) == folder
    with pytest.raises(ModelNotFoundError, match="switched off"):
        get("modelscope:org/name-1.6", offline=True)


def test_the_cached_copy_serves_while_the_hub_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModelScope()
    other.repositories["org/name"] = {"master": FOLDER}
    with serving(other) as url:
        monkeypatch.setenv("MODELSCOPE_DOMAIN", url)
        path = get("modelscope:org/name")
    assert get("modelscope:org/name") == path
