"""What the Containerfile runs that no build of a test reaches."""

import subprocess

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
