"""Models in object stores: S3 as moto speaks it, and any file system of fsspec."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from octavo.errors import ConfigError, ModelNotFoundError
from octavo.weights.source import resolve
from octavo.weights.sources import objects

MODEL = b"GGUF" + bytes(range(256)) * 4000
FOLDER = {"config.json": b"{}", "model.safetensors": MODEL, "tokenizer.json": b"[]"}


class Store:
    """gs:// in memory, with what Octavo uses of fsspec's file systems; it can break."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        self.reads: list[tuple[str, int]] = []

    def info(self, path: str) -> dict[str, Any]:
        if path not in self.files:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.files[path]), "etag": hashlib.md5(self.files[path]).hexdigest()}

    def find(self, path: str, detail: bool) -> dict[str, Any]:
        return {name: self.info(name) for name in self.files if name.startswith(f"{path}/")}

    def open(self, path: str, mode: str, **_: Any) -> Reader:
        return Reader(self, path)


class Reader:
    def __init__(self, store: Store, path: str):
        self.store, self.path, self.at = store, path, 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None: ...

    def seek(self, at: int) -> None:
        self.at = at
        self.store.reads.append((self.path.rpartition("/")[2], at))

    def read(self, size: int) -> bytes:
        if self.store.failures and self.at >= 400_000:
            raise self.store.failures.pop()
        chunk = self.store.files[self.path][self.at : self.at + min(size, 400_000)]
        self.at += len(chunk)
        return chunk


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **_: store)
    return store


def put(store: Store, files: dict[str, bytes], at: str = "b/m") -> None:
    store.files |= {f"{at}/{name}": content for name, content in files.items()}


def get(reference: str, **options: Any) -> Path:
    return resolve(reference, progress=False, **options)


def files_in(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".octavo.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_folder_is_fetched_without_what_no_model_needs(store: Store) -> None:
    put(store, {**FOLDER, "pytorch_model.bin": b"evil", "x.gguf": MODEL, "code.py": b"!"})
    path = get("gs://b/m/")
    assert files_in(path) == FOLDER
    assert get("gs://b/m") == path


def test_a_gguf_file_with_its_parts_or_alone_in_a_folder(store: Store) -> None:
    put(store, {"x-00001-of-00002.gguf": MODEL, "x-00002-of-00002.gguf": MODEL + b"2", "y.json": b"{}"})
    path = get("gs://b/m/x-00001-of-00002.gguf")
    assert files_in(path.parent).keys() == {"x-00001-of-00002.gguf", "x-00002-of-00002.gguf"}
    assert get("gs://b/m").name == "x-00001-of-00002.gguf"
    put(store, {"other.gguf": MODEL})
    with pytest.raises(ModelNotFoundError, match="several GGUF files"):
        get("gs://b/m")


def test_the_only_folder_with_a_model_is_the_model(store: Store) -> None:
    put(store, {f"sub/{name}": content for name, content in FOLDER.items()})
    path = get("gs://b/m")
    assert (path.name, files_in(path)) == ("sub", FOLDER)
    put(store, {f"two/{name}": content for name, content in FOLDER.items()})
    with pytest.raises(ModelNotFoundError, match="several models: sub, two"):
        get("gs://b/m")


def test_what_is_cached_needs_no_package_of_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, FOLDER)
    path = get("gs://b/m")
    monkeypatch.setattr(objects, "_connect", None)
    assert get("gs://b/m", offline=True) == path
    with pytest.raises(ModelNotFoundError, match="switched off"):
        get("gs://b/other", offline=True)


def test_a_store_that_breaks_off_is_gone_on_with(store: Store) -> None:
    put(store, FOLDER)
    store.failures = [ConnectionResetError("reset")]
    assert files_in(get("gs://b/m")) == FOLDER
    assert [at for name, at in store.reads if name == "model.safetensors"] == [0, 400_000]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("no"), "access is denied.*GOOGLE_APPLICATION_CREDENTIALS"),
        (FileNotFoundError("gone"), "does not exist"),
        (type("NoCredentialsError", (Exception,), {})("none"), "none; set GOOGLE"),
    ],
)
def test_a_store_that_says_no(error: Exception, message: str, store: Store) -> None:
    put(store, FOLDER)
    store.failures = [error] * 9
    with pytest.raises(ModelNotFoundError, match=message):
        get("gs://b/m")
    with pytest.raises(ModelNotFoundError, match="does not exist, or is empty"):
        get("gs://b/nothing")
    put(store, {"readme.md": b"#"}, "b/x")
    with pytest.raises(ModelNotFoundError, match="neither safetensors nor GGUF"):
        get("gs://b/x")


def test_a_bug_is_not_taken_for_a_failure_of_the_network(store: Store) -> None:
    put(store, FOLDER)
    store.failures = [TypeError("bug")]
    with pytest.raises(TypeError, match="bug"):
        get("gs://b/m")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_package_that_is_missing_is_named(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelNotFoundError, match=rf"{scheme}:// needs the package {package} .*pip install '{package}'"):
        get(f"{scheme}://bucket/m")


@pytest.mark.parametrize("reference", ["s3://", "s3:///", "gs://b//m", "s3://b/\x07"])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(ModelNotFoundError, match="BUCKET/FOLDER"):
        get(reference)
    with pytest.raises(ConfigError, match="revision"):
        get(reference, revision="v1")


# S3


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    if importlib.util.find_spec("s3fs") is None or importlib.util.find_spec("moto") is None:
        pytest.skip("needs s3fs and moto (pip install '.[sources]')")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the store, in which the bucket is new."""
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3
    import requests

    requests.post(f"{endpoint}/moto-api/reset", timeout=30)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    client.close()


def test_a_folder_of_s3(s3: Any) -> None:
    for name, content in FOLDER.items():
        s3.put_object(Bucket="bucket", Key=f"m/{name}", Body=content)
    path = get("s3://bucket/m")
    assert files_in(path) == FOLDER
    assert get("s3://bucket/m") == path
    s3.put_object(Bucket="bucket", Key="m/config.json", Body=b'{"a": 1}')
    assert files_in(get("s3://bucket/m"))["config.json"] == b'{"a": 1}'
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        get("s3://other/m")
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        get("s3://bucket/m/x.gguf")


def test_the_checksum_of_an_object_is_compared(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket="bucket", Key="x.gguf", Body=MODEL, ChecksumAlgorithm="SHA256")
    source = objects.open_source("s3://bucket/x.gguf", None)
    (file,) = source.list_files(5.0)
    assert file.sha256 == hashlib.sha256(MODEL).hexdigest()
    monkeypatch.setattr(objects.ObjectStore, "_s3_sha256", lambda *_: "0" * 64)
    with pytest.raises(ModelNotFoundError, match=f"SHA-256 {file.sha256}, not 0{{64}}"):
        get("s3://bucket/x.gguf")
