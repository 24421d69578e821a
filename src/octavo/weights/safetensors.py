"""Checkpoints in safetensors files: a JSON header with names, types and offsets, then the tensors' bytes.

Read by hand, as a guard: a count or size that a file gives is compared with what remains before it is used.

Layout of a file: u64 length of the header, the header, the data; offsets count from the start of the data.
Source: the format's own description in the safetensors repository. Everything is little endian.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelLoadError, one_line
from octavo.weights.dtypes import DTYPES
from octavo.weights.files import (
    PICKLE_REFUSED,
    BinaryReader,
    and_others,
    check_whole,
    parse_object,
    read_json,
    refuse_pickle,
)
from octavo.weights.quantized import read_quantized
from octavo.weights.tensor import Checkpoint, StoredTensor

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_RANK = 8
_MAX_DIMENSION = 2**63 - 1
_INDEX = "model.safetensors.index.json"


def open_safetensors(directory: Path) -> Checkpoint:
    """A directory with config.json and one or several safetensors files, all validated. Raises ModelLoadError."""
    config_file, index, single = (directory / name for name in ("config.json", _INDEX, "model.safetensors"))
    if not config_file.is_file():
        raise ModelLoadError(config_file, "file", "there is no config.json beside the weights")
    config = read_json(config_file)
    if index.exists():
        tensors = _read_indexed(index)
    else:
        tensors = _read_all([single] if single.exists() else _loose_files(directory))
    files = frozenset(tensor.file for tensor in tensors.values())
    method, matrices = read_quantized(directory, config, tensors)
    return Checkpoint(directory, config, matrices, files=files, quantization=method)


def _read_all(files: Iterable[Path]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_tensors(file).items():
            if name in tensors:
                raise ModelLoadError(file, name, f"is also in {tensors[name].file.name}")
            tensors[name] = tensor
    return tensors


def _read_indexed(index: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelLoadError(index, "weight_map", "missing, or not an object")
    for name, shard in weight_map.items():
        # A shard lies beside its index: a path could lead anywhere on the machine.
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".."):
            raise ModelLoadError(index, name, f"{one_line(repr(shard))} is not a file name")
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if not index.with_name(shard).exists()]:
        raise ModelLoadError(index, missing[0], f"the index names this file, but it is missing{and_others(missing)}")
    tensors = _read_all(map(index.with_name, shards))
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file.name != shard:
            raise ModelLoadError(index, name, f"the index says it is in {shard}, but it is not")
    if extra := next((name for name in tensors if name not in weight_map), None):
        raise ModelLoadError(tensors[extra].file, extra, "the index does not name this tensor")
    return tensors


def read_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, in the order of their data, of any of `DTYPES`. Raises ModelLoadError."""
    reader = BinaryReader(file)
    if reader.bytes[8:9] != b"{":
        refuse_pickle(file, reader.bytes[:8])
    length = reader.count("<Q", "header length", MAX_HEADER_BYTES)
    header = parse_object(reader.take(length, "header").tobytes(), file, "header")
    _check_metadata(file, header.pop("__metadata__", {}))
    data = reader.take(reader.remaining, "data")
    entries = sorted((*_offsets(file, name, entry, data.size), name) for name, entry in header.items())
    _check_contiguous(file, entries, data.size)
    return {name: _tensor(file, name, header[name], data[begin:end]) for begin, end, name in entries}


def _check_metadata(file: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelLoadError(file, "__metadata__", "must be an object of strings")


def _offsets(file: Path, name: str, entry: Any, size: int) -> tuple[int, int]:
    """Begin and end of a tensor's bytes inside the data section of `size` bytes."""
    if not name:
        raise ModelLoadError(file, "header", "a tensor has an empty name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelLoadError(file, name, "must have dtype, shape and data_offsets, and nothing else")
    offsets = entry["data_offsets"]
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(_is_size(x) for x in offsets)):
        raise ModelLoadError(file, name, "data_offsets must be two non-negative integers")
    begin, end = offsets
    if begin > end:
        raise ModelLoadError(file, name, f"data_offsets begin at {begin} after their end {end}")
    if end > size:
        raise ModelLoadError(file, name, f"ends at byte {end} of {size} bytes of data: the file is truncated?")
    return begin, end


def _check_contiguous(file: Path, entries: list[tuple[int, int, str]], size: int) -> None:
    """The data section must be covered exactly: no overlaps, no holes, nothing left over."""
    position = 0
    for begin, end, name in entries:
        if begin != position:
            problem = "overlaps another tensor" if begin < position else "leaves a hole before it"
            raise ModelLoadError(file, name, f"begins at byte {begin} instead of {position}: {problem}")
        position = end
    if position != size:
        raise ModelLoadError(file, "data", f"{size - position} bytes at the end belong to no tensor")


def _tensor(file: Path, name: str, entry: dict[str, Any], data: NDArray[np.uint8]) -> StoredTensor:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelLoadError(file, name, f"dtype {one_line(repr(dtype), 40)} is not supported, only BF16, F16, F32")
    if not (isinstance(shape, list) and len(shape) <= MAX_RANK and all(_is_size(x) for x in shape)):
        raise ModelLoadError(file, name, f"shape must be at most {MAX_RANK} non-negative integers")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if expected != data.size:
        raise ModelLoadError(file, name, f"{dtype} of shape {shape} takes {expected} bytes, not {data.size}")
    return StoredTensor(name, dtype, tuple(shape), data, file=file)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_DIMENSION  # a bool is an int too


def _loose_files(directory: Path) -> list[Path]:
    """All safetensors files of a directory without an index. Raises ModelLoadError if there are none."""
    if files := sorted(directory.glob("*.safetensors")):
        check_whole(files[0])
        return files
    if pickles := sorted(file for file in directory.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt")):
        raise ModelLoadError(pickles[0], "file", PICKLE_REFUSED)
    raise ModelLoadError(directory, "directory", "has no *.safetensors file")
