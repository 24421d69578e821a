"""What names a model in the keys of the store."""

import os
import subprocess
import sys

import numpy as np
import pytest

from harness import decoder
from octavo.prefix_store import identity as identity_module
from octavo.prefix_store.identity import digest_of, graph_as_data, identity


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"weights" * 1000)
    return path


def test_it_is_the_same_in_another_process(file):
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\nfrom harness import decoder\nfrom octavo.prefix_store.identity import identity\n"
        f"print(identity([decoder()], [Path({str(file)!r})], {{'b': {{1, 2, 'x'}}, 'a': 1.5}}).hex())"
    )
    found = {
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=env).stdout
        for env in ({**os.environ, "PYTHONHASHSEED": seed} for seed in "12")
    }
    assert found == {identity([decoder()], [file], {"a": 1.5, "b": {"x", 2, 1}}).hex() + "\n"}


def test_everything_in_it_counts(file, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes()[:-1] + b"!")
    graph, options = [decoder()], {"dtype": "float32", "config": {"rope_theta": 1e4}}
    found = [
        identity(graph, [file], options),
        identity(graph, [other], options),
        identity(graph, [file, other], options),
        identity([decoder(layers=3)], [file], options),
        identity(graph, [file], {**options, "dtype": "bfloat16"}),
        identity(graph, [file], {**options, "config": {"rope_theta": np.float32(1e4)}}),
        identity(graph, [file], {**options, "config": {"rope_theta": 1e6}}),
        identity(graph, [file], {**options, "object": object()}),
    ]
    assert len({*found}) == len(found)
    copy = tmp_path / "copy"
    copy.write_bytes(file.read_bytes())
    assert identity(graph, [copy], options) == found[0]


def test_a_graph_is_told_by_its_values_too():
    theta = decoder()
    data = graph_as_data(theta)
    assert data == graph_as_data(decoder())
    assert len(data) == len(theta.nodes)
    assert len(str(data)) < 100 * 1000  # inputs are numbers: nothing is told twice


def test_a_file_is_read_again_once_it_has_changed(file, tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    notes.mkdir()
    first = digest_of(file, notes)
    read = []
    monkeypatch.setattr(identity_module, "file_digest", lambda *args: read.append(1))
    assert digest_of(file, notes) == first
    assert not read
    monkeypatch.undo()
    times = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size, and the same time
    assert digest_of(file, notes) != first


@pytest.mark.parametrize("note", [b"", b"x" * 64, b"\xff" * 64])
def test_a_damaged_note_is_not_believed(file, tmp_path, note):
    first = digest_of(file, tmp_path)
    (path,) = [path for path in tmp_path.iterdir() if path != file]
    path.write_bytes(note)
    assert digest_of(file, tmp_path) == first
    assert path.read_text() == first


def test_without_a_place_for_notes_files_are_read(file):
    assert digest_of(file, file.parent / "nowhere") == digest_of(file)
