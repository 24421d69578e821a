"""Files of torch.save, read without PyTorch; forged ones do nothing."""

import os
import pickle
import random
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from octavo.errors import ModelLoadError
from octavo.weights.torch_file import read_torch_file


def forged(path, data, **others):
    """A file whose pickle is `data`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in others.items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_torch_s(tmp_path, dtype):
    linear = torch.nn.Linear(24, 3).to(dtype)
    torch.save(linear.state_dict(), tmp_path / "linear.pt")
    found = read_torch_file(tmp_path / "linear.pt")
    assert found.keys() == {"weight", "bias"}
    for name, values in linear.state_dict().items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], values.float().numpy())


def test_parts_of_one_storage_lie_where_they_are_said_to(tmp_path):
    whole = torch.arange(24.0)
    torch.save({"part": whole[4:16].view(3, 4), "number": whole[20]}, tmp_path / "parts.pt")
    found = read_torch_file(tmp_path / "parts.pt")
    assert np.array_equal(found["part"], np.arange(4, 16).reshape(3, 4))
    assert found["number"] == 20


class Call:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function, *args):
        self.called = function, args

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize(
    "function", [os.mkdir, eval, getattr, pickle.loads, torch.load, np.load], ids=lambda function: function.__name__
)
def test_a_file_that_names_a_function_is_refused_and_does_not_call_it(tmp_path, function):
    target = tmp_path / "made"
    path = forged(tmp_path / "bad.pt", pickle.dumps({"weight": Call(function, str(target))}, protocol=2))
    with pytest.raises(ModelLoadError, match="which is refused"):
        read_torch_file(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (lambda path: path.write_bytes(b""), "not a zip file"),
        (lambda path: torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False), "not a zip file"),
        (lambda path: torch.save(torch.ones(2), path), "no state dict"),
        (lambda path: torch.save({"a": 1}, path), "no state dict"),
        (lambda path: torch.save({"a": torch.ones(2, dtype=torch.int64)}, path), "LongStorage, which is refused"),
        (lambda path: torch.save({"a": torch.arange(12.0).view(3, 4).T}, path), "has strides"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "which is refused"),
        (lambda path: forged(path, b"", byteorder=b"big"), "little-endian"),
        (lambda path: forged(path, b"\x80\x02]" + b"0" * (1 << 21)), "pickle has"),
        (lambda path: forged(path, pickle.dumps(OrderedDict()), big=bytes(65 << 20)), "more than 64 MB"),
    ],
)
def test_what_is_no_file_of_tensors_is_refused(tmp_path, save, reason):
    path = tmp_path / "bad.pt"
    save(path)
    with pytest.raises(ModelLoadError, match=reason):
        read_torch_file(path)


def test_damage_is_refused_or_seen_in_the_values(tmp_path):
    torch.save(torch.nn.Linear(6, 2).state_dict(), tmp_path / "good.pt")
    good = (tmp_path / "good.pt").read_bytes()
    rng = random.Random(7)
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "bad.pt").write_bytes(data[: rng.randrange(len(data)) if rng.random() < 0.1 else None])
        try:
            found = read_torch_file(tmp_path / "bad.pt")
        except ModelLoadError:
            continue
        assert all(values.dtype == np.float32 for values in found.values())
