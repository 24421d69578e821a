"""Models in a registry: artifacts, images, who asks, and layers that are hostile."""

from __future__ import annotations

import base64
import gzip
import io
import json
import platform
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from file_server import serving
from octavo.errors import ConfigError, ModelNotFoundError
from octavo.weights.source import resolve

from .registry import IMAGE_LAYER, INDEX, Registry, archive

MODEL = b"GGUF" + bytes(range(256)) * 4000
FOLDER = {"config.json": b"{}", "model.safetensors": MODEL, "tokenizer.json": b"[]"}


@pytest.fixture
def registry() -> Iterator[Registry]:
    it = Registry()
    with serving(it) as it.url:
        yield it


def get(registry: Registry, rest: str, **options: Any) -> Path:
    return resolve(f"oci://{registry.url.removeprefix('http://')}/{rest}", progress=False, **options)


def files_in(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".octavo.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def push(registry: Registry, layers: list[dict[str, Any]], tag: str = "v1") -> str:
    return registry.manifest("m", tag, {"layers": layers})


def push_files(registry: Registry, files: dict[str, bytes], tag: str = "v1") -> str:
    media = "application/vnd.cncf.model.weight.v1.raw"
    return push(registry, [registry.layer("m", content, media, name) for name, content in files.items()], tag)


def test_layers_are_files_by_their_titles(registry: Registry) -> None:
    push_files(registry, {**FOLDER, "README.md": b"#", "code.py": b"!"})
    path = get(registry, "m:v1")
    assert files_in(path) == FOLDER
    assert registry.tokens == 1
    assert get(registry, "m:v1") == path
    assert get(registry, "m", revision="v1") == path


def test_files_of_equal_contents_are_several(registry: Registry) -> None:
    files = {**FOLDER, "generation_config.json": b"{}"}
    push_files(registry, files)
    assert files_in(get(registry, "m:v1")) == files


def test_a_lone_gguf_file_is_the_model(registry: Registry) -> None:
    push_files(registry, {"x-Q4_K_M.gguf": MODEL, "config.json": b"{}"}, "latest")
    assert get(registry, "m").read_bytes() == MODEL
    push_files(registry, {"x.gguf": MODEL, "y.gguf": MODEL + b"y"}, "two")
    with pytest.raises(ModelNotFoundError, match=r"several GGUF files.*x\.gguf"):
        get(registry, "m:two")


@pytest.mark.parametrize("media", ["application/vnd.ollama.image.model", "application/vnd.docker.ai.gguf.v3"])
def test_layers_of_ollama_and_docker_need_no_title(media: str, registry: Registry) -> None:
    licence = registry.layer("m", b"free", "application/vnd.ollama.image.license")
    push(registry, [registry.layer("m", MODEL, media), licence])
    assert get(registry, "m:v1").name == "model.gguf"


def test_the_models_folder_of_an_image_is_the_model(registry: Registry) -> None:
    base = archive({"etc/passwd": b"root", "usr/x/config.json": b"{}", "models/old.json": b"{}"}, {"etc/a.json": "b"})
    upper = archive({"./models/config.json": b"{}", "models/model.safetensors": MODEL, "models/.wh.old.json": b""})
    layers = [registry.layer("m", content, IMAGE_LAYER) for content in (base, upper)]
    image = push(registry, layers, "image")
    here = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    others = [{"digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}}]
    mine = {"digest": image, "platform": {"os": "linux", "architecture": here}}
    registry.manifest("m", "v1", {"manifests": [*others, mine]}, INDEX)
    path = get(registry, "m:v1")
    assert files_in(path) == {"config.json": b"{}", "model.safetensors": MODEL}
    registry.manifest("m", "v2", {"manifests": others}, INDEX)
    with pytest.raises(ModelNotFoundError, match=f"no image for linux/{here}"):
        get(registry, "m:v2")


@pytest.mark.parametrize("packed", [True, False])
def test_archives_of_artifacts_are_unpacked(packed: bool, registry: Registry) -> None:
    media = "application/vnd.cncf.model.weight.v1.tar" + "+gzip" * packed
    push(registry, [registry.layer("m", archive({f"a/{k}": v for k, v in FOLDER.items()}, packed=packed), media, "a")])
    path = get(registry, "m:v1")
    assert (path.name, files_in(path)) == ("a", FOLDER)
    assert not list(path.parent.rglob(".layers"))


def test_a_digest_needs_no_second_question(registry: Registry) -> None:
    digest = push_files(registry, FOLDER)
    path = get(registry, f"m@{digest}")
    count = len(registry.paths)
    assert get(registry, f"m@{digest}") == get(registry, "m", revision=digest) == path
    assert len(registry.paths) == count


def test_a_tag_that_moves_is_followed_and_only_what_changed_is_fetched(registry: Registry) -> None:
    push_files(registry, FOLDER)
    get(registry, "m:v1")
    push_files(registry, {**FOLDER, "config.json": b'{"a": 1}'})
    assert files_in(get(registry, "m:v1"))["config.json"] == b'{"a": 1}'


@pytest.mark.parametrize("challenge", ["Bearer", "Basic"])
def test_the_password_of_docker_s_configuration_is_used(
    challenge: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_files(registry, FOLDER)
    registry.password, registry.challenge = "user:secret", challenge
    with pytest.raises(ModelNotFoundError, match=r"access is denied.*docker login"):
        get(registry, "m:v1")
    auth = {"auth": base64.b64encode(b"user:secret").decode()}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.url.removeprefix("http://"): auth}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert files_in(get(registry, "m:v1")) == FOLDER


def test_a_token_that_expires_is_renewed(registry: Registry) -> None:
    push_files(registry, FOLDER)
    registry.once = True
    assert files_in(get(registry, "m:v1")) == FOLDER
    assert registry.tokens == 1 + len(FOLDER)


def test_a_layer_that_is_cut_off_or_wrong(registry: Registry, cache: Path) -> None:
    push_files(registry, FOLDER)
    registry.drop_after, registry.drops = 400_000, 2
    assert files_in(get(registry, "m:v1")) == FOLDER
    push_files(registry, {**FOLDER, "model.safetensors": MODEL + b"2"}, "v2")
    for path in [path for path, content in registry.files.items() if content == MODEL + b"2"]:
        registry.files[path] = MODEL + b"3"
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors has SHA-256 .*; it was not kept"):
        get(registry, "m:v2")
    assert not list(cache.rglob("model.safetensors.partial"))


def tar_of(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return gzip.compress(out.getvalue(), mtime=0)  # a test has the same name in every process


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of(member("models/../../../evil.json")), "unsafe path"),
        (tar_of(member("models/x.json", tarfile.SYMTYPE, "/etc/passwd")), "is a link"),
        (tar_of(member("models/x.json", tarfile.LNKTYPE, "etc/passwd")), "is a link"),
        (tar_of(member("models/x.gguf", tarfile.FIFOTYPE)), "is a link"),
        (tar_of(member("models/x.gguf", size=100 << 20)), "unpacks to more"),
        (tar_of(member("models/a.json/b.json"), member("models/a.json")), "unpacked"),
        (tar_of(member("models/config.json"))[:-12], "unpacked|neither"),
        (b"no archive", "unpacked"),
        (tar_of(member("models/readme.md")), "neither safetensors nor GGUF"),
    ],
)
def test_hostile_layers_are_refused(content: bytes, message: str, registry: Registry, tmp_path: Path) -> None:
    push(registry, [registry.layer("m", content, IMAGE_LAYER)])
    with pytest.raises(ModelNotFoundError, match=message) as raised:
        get(registry, "m:v1")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("evil.json"))
    assert not list(tmp_path.glob("cache/*@*"))


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"layers": []}, "no layers"),
        ({"layers": "x"}, "no layers"),
        ({"layers": [{"digest": "md5:1", "size": 1, "mediaType": "x"}]}, "lacks a sha256 digest"),
        ({"layers": [{"digest": "sha256:" + "0" * 64, "size": "1", "mediaType": "x"}]}, "lacks a sha256"),
        ({"layers": [7]}, "lacks a sha256"),
        ({"manifests": [7]}, "no image for"),
    ],
)
def test_broken_manifests_are_refused(manifest: dict[str, Any], message: str, registry: Registry) -> None:
    registry.manifest("m", "v1", manifest)
    with pytest.raises(ModelNotFoundError, match=message):
        get(registry, "m:v1")


def test_titles_and_packings_that_are_refused(registry: Registry) -> None:
    push_files(registry, {"../../x.gguf": MODEL})
    with pytest.raises(ModelNotFoundError, match="unsafe path"):
        get(registry, "m:v1")
    push(registry, [registry.layer("m", b"x", "application/vnd.oci.image.layer.v1.tar+zstd")])
    with pytest.raises(ModelNotFoundError, match="packed with zstd; only gzip"):
        get(registry, "m:v1")
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        get(registry, "m:v9")


@pytest.mark.parametrize(
    "reference", ["oci://", "oci://host", "oci://host/M", "oci://host/m:", "oci://host/m@sha256:1"]
)
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is not oci://REGISTRY"):
        resolve(reference)


def test_revisions_are_tags_or_digests() -> None:
    for reference, revision in (("oci://host/m:a", "b"), ("oci://host/m", "a b"), ("oci://host/m", "sha256:1")):
        with pytest.raises(ConfigError, match="revision"):
            resolve(reference, revision=revision)


def test_other_registries_are_asked_with_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    from octavo.weights.sources.oci import Artifact

    assert Artifact("ghcr.io", "a/m", "v1")._base == "https://ghcr.io/v2/a/m"
    assert Artifact("docker.io", "a/m", "v1")._base == "https://registry-1.docker.io/v2/a/m"
    monkeypatch.setenv("OCTAVO_PLAIN_REGISTRIES", "a:1, registry:5000")
    assert Artifact("registry:5000", "m", "v1")._base == "http://registry:5000/v2/m"
