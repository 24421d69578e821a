"""What the Containerfile and build_image.py run that no build of a test reaches."""

import importlib.util
import subprocess
import sys

import pytest

from .proxy import DEPLOY


@pytest.fixture
def embed(tmp_path):
    """Runs what the stage `embedded` does, over folders of a test, with a value of MODEL."""
    stage = (DEPLOY / "Containerfile").read_text().split("AS embedded\n")[1]
    command = stage.split("target=/mnt \\\n")[1].split("\nUSER")[0]
    for name in ("mnt", "models"):
        (tmp_path / name).mkdir()
        command = command.replace(f"/{name}", str(tmp_path / name))

    def run(model):
        return subprocess.run(["sh", "-c", command], env={"PATH": "/usr/bin:/bin", "MODEL": model}, capture_output=True)

    return run


def test_without_a_model_nothing_is_embedded(embed, tmp_path):
    (tmp_path / "mnt/secret").touch()
    done = embed("")
    assert done.returncode
    assert b"--build-arg MODEL=" in done.stderr
    assert not list((tmp_path / "models").iterdir())


def test_a_snapshot_of_links_is_embedded_as_files(embed, tmp_path):
    (tmp_path / "blob").write_text("weights")
    snapshot = tmp_path / "mnt/name"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to("../../blob")
    assert not embed("./name").returncode
    copy = tmp_path / "models/name/model.safetensors"
    assert not copy.is_symlink()
    assert copy.read_text() == "weights"


@pytest.fixture
def build_image(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("build_image", DEPLOY / "build_image.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_registry_that_does_not_answer_is_not_a_fault_of_the_image(build_image, capfd):
    with pytest.raises(SystemExit) as ended:
        build_image.fetch([sys.executable, "-c", "raise SystemExit(1)"])
    assert ended.value.code == 3
    assert "can its packages be fetched?" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("E: Failed to fetch http://deb.example/x.deb  502  Bad Gateway", 3),
        ("W: Failed to fetch http://deb.example/InRelease  Temporary failure resolving 'deb.example'", 3),
        ("AttributeError: module 'octavo' has no attribute 'x'", 1),
    ],
    ids=["package", "lists", "fault"],
)
def test_apt_inside_a_build_is_heard(build_image, monkeypatch, tmp_path, said, code):
    program = tmp_path / "buildah"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 125\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(build_image, "WORK", tmp_path)
    with pytest.raises(SystemExit) as ended:
        build_image.buildah("bud")
    assert ended.value.code == code
