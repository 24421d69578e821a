"""Tensors of a small file that torch.save wrote, read without PyTorch, and without calling what the file names.

Such a file is a zip archive with a pickle, which says what tensors there are, and the bytes of each. The few names that
such a pickle needs stand for functions of this module; any other one is refused. Source: torch/serialization.py.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from octavo.errors import ModelLoadError, one_line
from octavo.weights.head import Floats

MAX_BYTES = 64 << 20  # of all that is in the file
_MAX_PICKLE_BYTES = 1 << 20
_TYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2"}


class _Storage(NamedTuple):
    kind: str  # one of _TYPES
    data: bytes


def read_torch_file(file: Path) -> dict[str, Floats]:
    """The tensors of a state dict, by their names, in float32.

    Raises ModelLoadError for a damaged file, for one that names anything but tensors, and for one of over MAX_BYTES.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            state = _Reader(_members(archive)).load()
    except OSError as error:
        raise ModelLoadError(file, "file", f"can't be read: {error.strerror}") from None
    except Exception as error:  # whatever a forged archive or pickle leads to
        raise ModelLoadError(file, "file", f"is no file of tensors by torch.save: {one_line(str(error))}") from None
    is_state = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in state.items()
    )
    if not is_state:
        raise ModelLoadError(file, "file", "is no state dict: names of tensors, and tensors")
    return dict(state)


def _members(archive: zipfile.ZipFile) -> Mapping[str, bytes]:
    """What is in the archive, by paths in its one folder."""
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise ValueError(f"it unpacks to more than {MAX_BYTES >> 20} MB")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise ValueError("its entries are compressed")
    members = {info.filename.partition("/")[2]: archive.read(info) for info in infos}
    if members.get("byteorder", b"little") != b"little":
        raise ValueError("its numbers are not little-endian")
    return members


class _Reader(pickle.Unpickler):
    def __init__(self, members: Mapping[str, bytes]):
        data = members["data.pkl"]
        if len(data) > _MAX_PICKLE_BYTES:
            raise ValueError(f"its pickle has {len(data)} bytes")
        super().__init__(io.BytesIO(data))
        self.members = members

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any] | str] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        }
        if module == "torch" and name in _TYPES:
            return name
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return known[module, name]

    def persistent_load(self, place: Any) -> _Storage:
        what, kind, key, _, count = place
        data = self.members[f"data/{key}"]
        if what != "storage" or len(data) != count * np.dtype(_TYPES[kind]).itemsize:
            raise ValueError(f"data/{key} has {len(data)} bytes for {count} numbers")
        return _Storage(kind, data)


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Floats:
    rows = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if strides != rows or min((offset, *shape)) < 0:
        raise ValueError(f"a tensor of shape {shape} has strides {strides}, and begins at {offset}")
    dtype = np.dtype(_TYPES[storage.kind])
    values = np.frombuffer(storage.data, dtype, math.prod(shape), offset * dtype.itemsize)
    if storage.kind == "BFloat16Storage":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, np.float32).reshape(shape)
