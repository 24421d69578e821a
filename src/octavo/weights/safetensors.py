"""Checkpoints in safetensors files: a JSON header with names, types and offsets, then the tensors' bytes.

Read by hand, as a guard: a count or size that a file gives is compared with what remains before it is used.

Layout of a file: u64 length of the header, the header, the data; offsets count from the start of the data.
Source: the format's own description in the safetensors repository. Everything is little endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelLoadError, one_line
from octavo.weights.files import PICKLE_REFUSED, map_file, parse_object, read_json, refuse_pickle
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import StoredTensor

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_RANK = 8
_MAX_DIMENSION = 2**63 - 1
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class SafetensorsCheckpoint:
    """A directory with config.json and one or several safetensors files; see `tensor.Checkpoint`."""

    def __init__(self, directory: Path):
        """Open and validate every file. Raises ModelLoadError."""
        self.path = directory
        config = directory / "config.json"
        if not config.is_file():
            raise ModelLoadError(config, "file", "there is no config.json beside the weights")
        self.config: dict[str, Any] = read_json(config)
        self._tensors: dict[str, StoredTensor] = {}
        self._files: dict[str, Path] = {}
        if (directory / _INDEX).exists():
            self._open_indexed(directory / _INDEX)
        elif (directory / _SINGLE).exists():
            self._add(directory / _SINGLE)
        else:
            for file in _loose_files(directory):
                self._add(file)

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        return self._tensors

    def file_of(self, name: str) -> str:
        return str(self._files.get(name, self.path))

    def _add(self, file: Path) -> None:
        for name, tensor in read_tensors(file).items():
            if name in self._tensors:
                raise ModelLoadError(file, one_line(name), f"is also in {self._files[name].name}")
            self._tensors[name] = tensor
            self._files[name] = file

    def _open_indexed(self, index: Path) -> None:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelLoadError(index, "weight_map", "missing, or not an object")
        for name, shard in weight_map.items():
            # A shard lies beside its index: a path could lead anywhere on the machine.
            if not isinstance(shard, str) or Path(shard).name != shard or shard == "..":
                raise ModelLoadError(index, one_line(name), f"{one_line(repr(shard))} is not a file name")
        for shard in sorted(set(weight_map.values())):
            file = index.with_name(shard)
            if not file.exists():
                raise ModelLoadError(index, one_line(shard), "the index names this file, but it is missing")
            self._add(file)
        for name, shard in weight_map.items():
            if name not in self._tensors or self._files[name].name != shard:
                raise ModelLoadError(index, one_line(name), f"the index says it is in {shard}, but it is not")
        if extra := next((name for name in self._tensors if name not in weight_map), None):
            raise ModelLoadError(self._files[extra], one_line(extra), "the index does not name this tensor")


def read_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, in the order of their data. Raises ModelLoadError."""
    content = map_file(file)
    if content[8:9].tobytes() != b"{":
        refuse_pickle(file, content[:8].tobytes())
    if content.size < 8:
        raise ModelLoadError(file, "header length", f"the file has {content.size} bytes, its length takes 8")
    length = int.from_bytes(content[:8].tobytes(), "little")
    if length > MAX_HEADER_BYTES:
        raise ModelLoadError(file, "header length", f"{length} is more than the {MAX_HEADER_BYTES} allowed")
    if length > content.size - 8:
        raise ModelLoadError(
            file,
            "header length",
            f"says {length} bytes, the file has {content.size - 8} more: it is truncated?",
        )
    header = parse_object(content[8 : 8 + length].tobytes(), file, "header")
    _check_metadata(file, header.pop("__metadata__", {}))
    data = content[8 + length :]
    entries = sorted(
        ((*_offsets(file, name, entry, data.size), name) for name, entry in header.items()),
    )
    _check_contiguous(file, entries, data.size)
    return {name: _tensor(file, name, header[name], data[begin:end]) for begin, end, name in entries}


def _check_metadata(file: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelLoadError(file, "__metadata__", "must be an object of strings")


def _offsets(file: Path, name: str, entry: Any, size: int) -> tuple[int, int]:
    """Begin and end of a tensor's bytes inside the data section of `size` bytes."""
    field = one_line(name)
    if not name:
        raise ModelLoadError(file, "header", "a tensor has an empty name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelLoadError(file, field, "must have dtype, shape and data_offsets, and nothing else")
    offsets = entry["data_offsets"]
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(_is_size(x) for x in offsets)):
        raise ModelLoadError(file, field, "data_offsets must be two non-negative integers")
    begin, end = offsets
    if begin > end:
        raise ModelLoadError(file, field, f"data_offsets begin at {begin} after their end {end}")
    if end > size:
        raise ModelLoadError(file, field, f"ends at byte {end} of {size} bytes of data: the file is truncated?")
    return begin, end


def _check_contiguous(file: Path, entries: list[tuple[int, int, str]], size: int) -> None:
    """The data section must be covered exactly: no overlaps, no holes, nothing left over."""
    position = 0
    for begin, end, name in entries:
        if begin != position:
            problem = "overlaps another tensor" if begin < position else "leaves a hole before it"
            raise ModelLoadError(file, one_line(name), f"begins at byte {begin} instead of {position}: {problem}")
        position = end
    if position != size:
        raise ModelLoadError(file, "data", f"{size - position} bytes at the end belong to no tensor")


def _tensor(file: Path, name: str, entry: dict[str, Any], data: NDArray[np.uint8]) -> StoredTensor:
    dtype, shape = entry["dtype"], entry["shape"]
    field = one_line(name)
    if dtype not in ("F32", "F16", "BF16"):
        raise ModelLoadError(file, field, f"dtype {one_line(repr(dtype), 40)} is not supported, only BF16, F16, F32")
    if not (isinstance(shape, list) and len(shape) <= MAX_RANK and all(_is_size(x) for x in shape)):
        raise ModelLoadError(file, field, f"shape must be at most {MAX_RANK} non-negative integers")
    expected = LAYOUTS[dtype].nbytes(tuple(shape))
    if expected != data.size:
        raise ModelLoadError(file, field, f"{dtype} of shape {shape} takes {expected} bytes, not {data.size}")
    return StoredTensor(name, dtype, tuple(shape), data)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_DIMENSION  # a bool is an int too


def _loose_files(directory: Path) -> list[Path]:
    """All safetensors files of a directory without an index. Raises ModelLoadError if there are none."""
    files = sorted(directory.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(file for file in directory.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        raise ModelLoadError(pickles[0], "file", PICKLE_REFUSED)
    raise ModelLoadError(directory, "directory", "has no *.safetensors file")
