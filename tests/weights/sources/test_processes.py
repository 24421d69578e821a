"""Several processes, killed ones, full disks, folders that can't be written; and models that are loaded at the end."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import make_tiny_llama
from file_server import FileServer, serving
from octavo import LLM, SamplingParams
from octavo.cli.main import main
from octavo.errors import ModelNotFoundError
from octavo.weights.source import resolve
from octavo.weights.sources import transfer

from .registry import Registry
from .test_oci import push_files

MODEL = b"GGUF" + random.Random(0).randbytes(3_000_000)


@pytest.fixture(autouse=True)
def model(server: FileServer) -> None:
    server.files["/x.gguf"] = MODEL


def pull(reference: str) -> subprocess.Popen[str]:
    """`octavo pull` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "octavo", "pull", reference]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_fetch_a_model_once(server: FileServer, url: str) -> None:
    server.halt = threading.Event()
    first = pull(f"{url}/x.gguf")
    assert server.reached.wait(60)
    second = pull(f"{url}/x.gguf")
    assert second.stderr is not None
    assert "another process fetches" in second.stderr.readline()
    server.halt.set()
    (one, _), (two, _) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert one == two
    assert Path(one.strip()).read_bytes() == MODEL
    assert server.sent == {"/x.gguf": len(MODEL)}


def test_after_a_kill_the_rest_is_fetched_and_no_more(server: FileServer, url: str, cache: Path) -> None:
    server.halt = threading.Event()
    process = pull(f"{url}/x.gguf")
    assert server.reached.wait(60)
    (partial,) = _until(lambda: [path for path in cache.rglob("x.gguf.partial") if path.stat().st_size > 1_000_000])
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    kept = partial.stat().st_size
    server.halt.set()
    server.halt = None
    assert resolve(f"{url}/x.gguf", progress=False).read_bytes() == MODEL
    assert server.headers[-1]["Range"] == f"bytes={kept}-"


def _until(find: Any) -> Any:
    while not (found := find()):
        os.sched_yield()
    return found


def test_a_disk_that_fills_up_keeps_what_is_there(
    server: FileServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 1_000_000

    class Full(transfer._Partial):
        def write(self, chunk: bytes) -> None:
            fits = max(0, room - self.size)
            super().write(chunk[:fits])
            if fits < len(chunk):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_Partial", Full)
        for _ in range(2):
            with pytest.raises(
                ModelNotFoundError, match=r"2\.0 MB of .* are missing: .* is full \(No space .* is kept"
            ):
                resolve(f"{url}/x.gguf", progress=False)
    assert resolve(f"{url}/x.gguf", progress=False).read_bytes() == MODEL
    assert server.headers[-1]["Range"] == f"bytes={room}-"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_small_disk(server: FileServer, url: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"nothing can be mounted here: {mount.stderr.decode().strip()}")
    try:
        with pytest.raises(ModelNotFoundError, match=r"needs 3\.0 MB more, 2\.1 MB are free in .*small: set OCTAVO"):
            resolve(f"{url}/x.gguf", progress=False, cache_dir=small)
        server.lengths = server.ranges = False  # so that nobody knows before
        with pytest.raises(ModelNotFoundError, match=r"small is full \(No space left on device"):
            resolve(f"{url}/x.gguf", progress=False, cache_dir=small)
        server.lengths = server.ranges = True
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        assert resolve(f"{url}/x.gguf", progress=False, cache_dir=small).read_bytes() == MODEL
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.parametrize("command", [["run"], ["serve", "--port", "0"], ["pull"], ["models"]])
def test_a_cache_that_can_not_be_written_is_one_line(
    command: list[str], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "file"))
    prompt = ["hello"] if command == ["run"] else []
    assert main([*command, f"{url}/x.gguf", *prompt]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "can't be written (" in line
    assert "set OCTAVO_CACHE or --download-dir to another folder" in line


def test_pull_says_what_it_fetches_and_where_it_is(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", f"{url}/x.gguf"]) == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()).read_bytes() == MODEL
    assert err == f"octavo: fetching {url}/x.gguf (3.0 MB)\n"


@pytest.mark.parametrize("place", ["url", "oci"])
def test_a_model_from_elsewhere_answers_as_the_local_one(
    place: str, server: FileServer, url: str, tmp_path: Path
) -> None:
    tiny = make_tiny_llama(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in tiny.iterdir()}
    params = SamplingParams(temperature=0.0, max_tokens=8)
    expected = LLM(str(tiny), dtype="float32").generate(["hello"], params)[0].outputs[0].token_ids
    registry = Registry()
    with serving(registry) as registry.url:
        push_files(registry, files)
        server.files |= {f"/tiny/{name}": content for name, content in files.items()}
        reference = f"{url}/tiny/config.json" if place == "url" else f"oci://{registry.url[7:]}/m:v1"
        found = LLM(reference, dtype="float32").generate(["hello"], params)[0].outputs[0].token_ids
    assert found == expected


def test_a_password_is_in_no_model_s_name(server: FileServer, url: str, tmp_path: Path) -> None:
    server.files |= {f"/{path.name}": path.read_bytes() for path in make_tiny_llama(tmp_path / "tiny").iterdir()}
    reference = f"{url.replace('//', '//user:secret@')}/config.json?X-Signature=secret"
    llm = LLM(reference, dtype="float32")
    assert llm.model.name == f"{url}/config.json"
