"""Safetensors: what is valid opens without a copy, whatever lies is refused by name and within bounds."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from writers import bounded_memory, entry, safetensors

from octavo.errors import ModelLoadError
from octavo.weights import open_checkpoint
from octavo.weights.safetensors import read_tensors

DATA = bytes(range(24))
GOOD = {"a": entry(0, 8), "b": entry(8, 24, [2, 2])}


def model(folder: Path, files: dict[str, bytes | str | Any]) -> Path:
    """A folder of files; what is neither bytes nor str is written as JSON."""
    for name, content in files.items():
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        (folder / name).write_bytes(content)
    return folder


def test_tensors_equal_what_the_safetensors_library_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "x": torch.randn(3, 5),
        "y": torch.randn(2, 2, 2).bfloat16(),
        "z": torch.randn(7).half(),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.path == tmp_path
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        stored = checkpoint.tensors[name]
        assert stored.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(stored.values(), tensor.float().numpy())
        assert checkpoint.tensors[name].file == tmp_path / "model.safetensors"


def test_tensors_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(safetensors(GOOD, DATA))
    tensors = read_tensors(tmp_path / "m.safetensors")
    assert not tensors["a"].data.flags.writeable
    assert not tensors["a"].data.flags.owndata
    assert tensors["b"].data.tobytes() == DATA[8:]


HEADERS: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "file"),
    "five bytes": (b"12345", "header length"),
    "header longer than the file": (safetensors(GOOD, DATA, length=10**6), "header length"),
    "header of 2^64 - 1 bytes": (safetensors(GOOD, DATA, length=2**64 - 1), "header length"),
    "header above the format's limit": (safetensors(GOOD, DATA, length=100_000_001), "header length"),
    "header of no bytes": (safetensors(""), "header"),
    "not JSON": (safetensors("{nonsense}"), "header"),
    "not UTF-8": (safetensors(b'{"\xff": 1}'), "header"),
    "a list": (safetensors([]), "header"),
    "NaN": (safetensors('{"a": NaN}'), "header"),
    "deep nesting": (safetensors("[" * 100_000), "header"),
    "an integer of 10,000 digits": (safetensors('{"a": ' + "9" * 10_000 + "}"), "header"),
    "more entries than memory allows": (safetensors('{"a": [' + "[]," * 1_500_000 + "0]}"), "header"),
    "a string wider than memory allows": (
        safetensors('{"a": "' + "x" * 12_000_000 + '\\ud83d\\ude00"}'), "header"),
    "a duplicate tensor": (
        safetensors('{"a": %s, "a": %s}' % ((json.dumps(entry(0, 24)),) * 2), DATA), "header"),
    "a duplicate key in a tensor": (
        safetensors('{"a": {"dtype": "F32", "shape": [6], "shape": [6], "data_offsets": [0, 24]}}', DATA),
        "header"),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}, **GOOD}, DATA), "__metadata__"),
    "metadata as a list": (safetensors({"__metadata__": [], **GOOD}, DATA), "__metadata__"),
    "an empty name": (safetensors({"": entry(0, 24)}, DATA), "header"),
    "a tensor that is a number": (safetensors({"a": 1}, DATA), "a"),
    "no shape": (safetensors({"a": {"dtype": "F32", "data_offsets": [0, 24]}}, DATA), "a"),
    "an unknown field": (safetensors({"a": {**entry(0, 24), "quantized": True}}, DATA), "a"),
    "an integer dtype": (safetensors({"a": entry(0, 24, [12], "I16")}, DATA), "a"),
    "an unknown dtype": (safetensors({"a": entry(0, 24, [24], "X" * 1000)}, DATA), "a"),
    "a dtype that is a list": (safetensors({"a": entry(0, 24, [6], ["F32"])}, DATA), "a"),
    "a negative dimension": (safetensors({"a": entry(0, 24, [-2, -3])}, DATA), "a"),
    "a dimension of 1.5": (safetensors({"a": entry(0, 24, [1.5, 4])}, DATA), "a"),
    "a boolean dimension": (safetensors({"a": entry(0, 24, [True, 6])}, DATA), "a"),
    "a shape that overflows 64 bits to 24 bytes": (
        safetensors({"a": entry(0, 24, [2**62 + 1, 8, 3])}, DATA), "a"),
    "a dimension above 63 bits": (safetensors({"a": entry(0, 24, [2**64])}, DATA), "a"),
    "rank 9": (safetensors({"a": entry(0, 24, [6, *[1] * 8])}, DATA), "a"),
    "a shape larger than the bytes": (safetensors({"a": entry(0, 24, [7])}, DATA), "a"),
    "a shape smaller than the bytes": (safetensors({"a": entry(0, 24, [5])}, DATA), "a"),
    "three offsets": (safetensors({"a": {**entry(0, 24), "data_offsets": [0, 8, 24]}}, DATA), "a"),
    "a negative offset": (safetensors({"a": {**entry(0, 24), "data_offsets": [-8, 16]}}, DATA), "a"),
    "an offset that is text": (safetensors({"a": {**entry(0, 24), "data_offsets": ["0", "24"]}}, DATA), "a"),
    "begin after end": (safetensors({"a": {**entry(0, 24), "data_offsets": [24, 0]}}, DATA), "a"),
    "a tensor past the end": (safetensors({"a": entry(0, 28)}, DATA), "a"),
    "truncated by one byte": (safetensors(GOOD, DATA[:-1]), "b"),
    "two tensors on the same bytes": (safetensors({"a": entry(0, 24), "b": entry(0, 24)}, DATA), "b"),
    "an overlap": (safetensors({"a": entry(0, 16), "b": entry(12, 24)}, DATA), "b"),
    "a hole": (safetensors({"a": entry(0, 8), "b": entry(12, 24)}, DATA), "b"),
    "a hole at the start": (safetensors({"a": entry(4, 24)}, DATA), "a"),
    "bytes left over": (safetensors({"a": entry(0, 20)}, DATA), "data"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "file"),
    "a zip of pickles": (b"PK\x03\x04" + bytes(60), "file"),
    "a bare pickle": (b"\x80\x02}q\x00." + bytes(60), "file"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_lying_file_is_refused_by_field_within_bounded_memory(case: str, tmp_path: Path) -> None:
    content, field = HEADERS[case]
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with bounded_memory(file), pytest.raises(ModelLoadError) as raised:
        read_tensors(file)
    assert raised.value.field == field
    assert raised.value.file == str(file)
    assert "\n" not in str(raised.value)
    assert len(raised.value.reason) < 500


def test_a_header_with_many_tensors_stays_within_bounded_memory(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    count = 20_000
    names = (f'"model.layers.{i}.weight":{json.dumps(entry(4 * i, 4 * i + 4))}' for i in range(count))
    file.write_bytes(safetensors("{" + ",".join(names) + "}", bytes(4 * count)))
    with bounded_memory(file):
        assert len(read_tensors(file)) == count


def index(**weight_map: Any) -> dict[str, Any]:
    return {"metadata": {}, "weight_map": weight_map}


ONE, TWO = safetensors({"a": entry(0, 8)}, DATA[:8]), safetensors({"b": entry(0, 8)}, DATA[:8])
INDEX = "model.safetensors.index.json"


def test_shards_of_an_index_are_one_checkpoint(tmp_path: Path) -> None:
    model(tmp_path, {"config.json": {}, "1.safetensors": ONE, "2.safetensors": TWO,
                     INDEX: index(a="1.safetensors", b="2.safetensors")})  # fmt: skip
    checkpoint = open_checkpoint(tmp_path)
    assert sorted(checkpoint.tensors) == ["a", "b"]
    assert checkpoint.tensors["b"].file.name.endswith("2.safetensors")
    assert checkpoint.files == {tmp_path / "1.safetensors", tmp_path / "2.safetensors"}


def test_without_an_index_all_files_are_taken(tmp_path: Path) -> None:
    model(tmp_path, {"config.json": {}, "1.safetensors": ONE, "2.safetensors": TWO})
    assert sorted(open_checkpoint(tmp_path).tensors) == ["a", "b"]


def test_all_shards_that_are_missing_are_named(tmp_path: Path) -> None:
    names = [f"m-{i:05d}-of-00007.safetensors" for i in range(1, 8)]
    files = {"config.json": {}, names[0]: ONE, INDEX: index(**dict(zip("abcdefg", names, strict=True)))}
    model(tmp_path, files)
    reason = rf"{names[1]}: .* is missing; so are {names[2]}, {names[3]}, {names[4]} and 2 more"
    with pytest.raises(ModelLoadError, match=f"{INDEX}: {reason}"):
        open_checkpoint(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(ModelLoadError, match=f"{names[0]}: {reason.replace('.*', 'this part of 7')}"):
        open_checkpoint(tmp_path)


FOLDERS: dict[str, tuple[dict[str, Any], str]] = {
    "no config.json": ({"model.safetensors": ONE}, "file"),
    "a config.json of no bytes": ({"config.json": b"", "model.safetensors": ONE}, "file"),
    "a config.json that is not JSON": ({"config.json": "{", "model.safetensors": ONE}, "file"),
    "a config.json that is a list": ({"config.json": [], "model.safetensors": ONE}, "file"),
    "only pickles": ({"config.json": {}, "pytorch_model.bin": b"PK\x03\x04"}, "file"),
    "no weights": ({"config.json": {}}, "directory"),
    "nothing": ({}, "directory"),
    "an index without a map": ({"config.json": {}, INDEX: {}}, "weight_map"),
    "an index whose map is a list": ({"config.json": {}, INDEX: {"weight_map": []}}, "weight_map"),
    "an index that names a missing shard": (
        {"config.json": {}, INDEX: index(a="1.safetensors")}, "1.safetensors"),
    "an index that leads elsewhere": ({"config.json": {}, INDEX: index(a="../x.safetensors")}, "a"),
    "an index that names no file": ({"config.json": {}, INDEX: index(a="")}, "a"),
    "an index that leads to the root": ({"config.json": {}, INDEX: index(a="/etc/passwd")}, "a"),
    "an index of numbers": ({"config.json": {}, INDEX: index(a=1)}, "a"),
    "an index that names a missing tensor": (
        {"config.json": {}, "1.safetensors": ONE, INDEX: index(a="1.safetensors", c="1.safetensors")}, "c"),
    "an index that names the wrong shard": (
        {"config.json": {}, "1.safetensors": ONE, "2.safetensors": TWO,
         INDEX: index(a="2.safetensors", b="1.safetensors")}, "a"),
    "an index that leaves a tensor out": (
        {"config.json": {}, "1.safetensors": safetensors(GOOD, DATA), INDEX: index(a="1.safetensors")}, "b"),
    "a tensor in two files": ({"config.json": {}, "1.safetensors": ONE, "2.safetensors": ONE}, "a"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_not_a_checkpoint_is_refused_by_field(case: str, tmp_path: Path) -> None:
    files, field = FOLDERS[case]
    with pytest.raises(ModelLoadError) as raised:
        open_checkpoint(model(tmp_path, files))
    assert raised.value.field == field
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x05", b"PK\x03"])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, start: bytes) -> None:
    length = int.from_bytes(start, "little")
    header = json.dumps(GOOD).encode()
    content = safetensors(header + b" " * (length - len(header)), DATA)
    assert content.startswith(start)
    model(tmp_path, {"config.json": {}, "model.safetensors": content})
    assert sorted(open_checkpoint(tmp_path).tensors) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("openvino_model.xml", "OpenVINO"),
        ("openvino_encoder_model.xml", "OpenVINO"),
        ("model.onnx", "ONNX"),
        ("flax_model.msgpack", "Flax"),
        ("tf_model.h5", "TensorFlow"),
    ],
)
def test_what_was_exported_for_another_program_is_refused_by_its_name(tmp_path: Path, name: str, program: str) -> None:
    model(tmp_path, {"config.json": {}, name: b"x", "openvino_model.bin": b"x"})
    with pytest.raises(ModelLoadError, match=f"{name}: file: the model was exported for {program}; get the one with"):
        open_checkpoint(tmp_path)


def test_messages_say_what_to_do(tmp_path: Path) -> None:
    model(tmp_path, {"config.json": {}, "pytorch_model.bin": b""})
    with pytest.raises(ModelLoadError, match="convert to safetensors"):
        open_checkpoint(tmp_path)
    model(tmp_path, {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"})
    with pytest.raises(ModelLoadError, match="run git lfs pull"):
        open_checkpoint(tmp_path)


def test_a_missing_path_a_folder_and_a_fifo_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("fifo", "folder", "missing"):
        with pytest.raises(ModelLoadError):
            read_tensors(tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelLoadError, match="does not exist"):
        open_checkpoint(tmp_path / "missing")


def test_mutated_bytes_give_an_error_or_a_valid_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = safetensors(GOOD, DATA)
    file = tmp_path / "model.safetensors"
    refused = 0
    for _ in range(2000):
        content = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 4))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        file.write_bytes(content)
        try:
            for tensor in read_tensors(file).values():
                assert np.isfinite(tensor.values().size)
        except ModelLoadError:
            refused += 1
    assert 800 < refused < 2000
