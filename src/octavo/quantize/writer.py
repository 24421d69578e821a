"""Writes safetensors files whose tensors come one by one, in any order, and the index of several files."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.quantize.formats import Stored

SHARD_BYTES = 5_000_000_000
SIZES = {"I64": 8, "I32": 4, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "F8_E4M3": 1}


class Writer:
    """`tensors` says what will come, so that headers can be written at once; larger tensors first, as types align."""

    def __init__(self, folder: Path, tensors: Stored, shard_bytes: int = SHARD_BYTES):
        self.total = sum(map(nbytes, tensors.values()))
        self._files: list[int] = []
        self._places: dict[str, tuple[int, int, int]] = {}  # by tensor: file, offset, bytes
        shards = _shards(tensors, shard_bytes)
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        for file, shard in zip(names if len(shards) > 1 else ["model.safetensors"], shards, strict=True):
            self._open(folder / file, shard)
        if len(shards) > 1:
            weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
            index = {"metadata": {"total_size": self.total}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))

    def _open(self, file: Path, tensors: Stored) -> None:
        """Writes the header, and makes the file as long as it will be."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, (dtype, shape) in tensors.items():
            begin, end = end, end + nbytes((dtype, shape))
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data are aligned
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._files.append(number)
        os.pwrite(number, len(text).to_bytes(8, "little") + text, 0)
        os.truncate(number, 8 + len(text) + end)
        for name in tensors:
            begin, end = header[name]["data_offsets"]
            self._places[name] = number, 8 + len(text) + begin, end - begin

    def write(self, name: str, values: NDArray[Any]) -> None:
        """`values` are contiguous, and have the type and the size that was announced; each tensor comes once."""
        number, offset, size = self._places.pop(name)
        data = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        assert len(data) == size, name
        while data:
            written = os.pwrite(number, data, offset)
            data, offset = data[written:], offset + written

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in self._files:
            os.close(number)
        assert kind is not None or not self._places, f"never written: {', '.join(self._places)}"


def nbytes(entry: tuple[str, tuple[int, ...]]) -> int:
    dtype, shape = entry
    return SIZES[dtype] * math.prod(shape)


def _shards(tensors: Stored, limit: int) -> list[Stored]:
    """The tensors in their order, in parts that are no larger than `limit`, unless one tensor is."""
    shards: list[Stored] = [{}]
    size = 0
    for name, entry in tensors.items():
        if shards[-1] and size + nbytes(entry) > limit:
            shards.append({})
            size = 0
        shards[-1][name] = entry
        size += nbytes(entry)
    return [dict(sorted(shard.items(), key=lambda item: -SIZES[item[1][0]])) for shard in shards]
