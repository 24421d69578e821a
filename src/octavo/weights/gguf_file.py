"""Parsing a GGUF file: metadata, and where its tensors lie.

Read by hand, as a guard: a count or size that a file gives is compared with what remains before it is used.

Layout: "GGUF", u32 version, u64 tensors, u64 key-values; the key-values; the tensor infos; padding up to
`general.alignment`; the tensors' data.
Source: the GGUF specification (ggml's docs/gguf.md), versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelLoadError, one_line
from octavo.weights.files import MEMORY_BUDGET, BinaryReader, refuse_pickle
from octavo.weights.layout import LAYOUTS
from octavo.weights.tensor import StoredTensor

MAX_KEYS = 4096
MAX_TENSORS = 32768
MAX_STRINGS = 2_000_000  # in all arrays together: bounds the time to parse them
MAX_NAME_BYTES = 1024
MAX_STRING_BYTES = 4 << 20
MAX_RANK = 4

_STRING, _ARRAY, _BOOL = 8, 9, 7
# Number types of metadata, as struct and numpy write them.
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", _BOOL: "<B", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_FORMATS = {layout.ggml_type: name for name, layout in LAYOUTS.items() if layout.ggml_type is not None}


class GGUFFile(NamedTuple):
    """One parsed file. Strings are `str`, arrays of them `list[str]`, numeric arrays numpy views of the file.

    Tensors have GGUF's names; shapes are row-major (GGUF's dimensions reversed).
    """

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


# Of a tensor: offset from the start of the data, name, format and shape.
_TensorInfo = tuple[int, str, str, tuple[int, ...]]


def read_gguf(path: Path) -> GGUFFile:
    """Map and validate a GGUF file. Raises ModelLoadError."""
    reader = _Reader(path)
    num_tensors, num_keys = reader.header()
    metadata = reader.metadata(num_keys)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        reader.fail("general.alignment", f"{one_line(repr(alignment), 40)} is not a power of two")
    infos = [reader.tensor_info() for _ in range(num_tensors)]
    start = -(-reader.position // alignment) * alignment
    return GGUFFile(metadata, _place(reader, infos, start, alignment))


def single(path: Path, metadata: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """What the metadata say under a key whose value is never an array. Raises ModelLoadError."""
    value = metadata.get(key, default)
    if isinstance(value, list | np.ndarray):
        raise ModelLoadError(path, key, f"is an array of {len(value)} elements, not a single value")
    return value


def _place(reader: _Reader, infos: list[_TensorInfo], start: int, alignment: int) -> dict[str, StoredTensor]:
    """Check where the tensors lie in the data that begins at `start`, and give each its bytes."""
    size = max(0, len(reader.bytes) - start)
    tensors: dict[str, StoredTensor] = {}
    previous = 0
    for offset, name, format, shape in sorted(infos):
        if name in tensors:
            reader.fail(name, "the tensor is there twice")
        try:
            length = LAYOUTS[format].nbytes(shape)
        except ValueError as error:
            reader.fail(name, str(error))
        if offset % alignment:
            reader.fail(name, f"offset {offset} is not a multiple of the alignment {alignment}")
        if offset < previous:
            reader.fail(name, f"begins at byte {offset} of the data and overlaps the one up to {previous}")
        previous = offset + length
        if previous > size:
            reader.fail(name, f"ends at byte {previous} of {size} bytes of data: the file is truncated?")
        data = reader.content[start + offset : start + previous]
        tensors[name] = StoredTensor(name, format, shape, data, file=reader.path)
    return tensors


class _Reader(BinaryReader):
    def __init__(self, path: Path):
        super().__init__(path)
        self.strings_left = MAX_STRINGS
        self.memory_left = len(self.bytes) + MEMORY_BUDGET * 5 // 8  # for strings; the rest is for keys and tensors

    def string(self, field: str, limit: int = MAX_STRING_BYTES) -> str:
        length = self.count("<Q", field, limit)
        try:
            return self.take(length, field).tobytes().decode()
        except UnicodeDecodeError:
            return str(self.fail(field, "is not valid UTF-8"))

    def header(self) -> tuple[int, int]:
        """Number of tensors, number of key-values."""
        magic = self.bytes[:4]
        if magic != b"GGUF":
            refuse_pickle(self.path, magic)
            self.fail("magic", f"the file begins with {magic!r}, not with b'GGUF'")
        self.position = 4
        version = self.number("<I", "version")
        if version and not version & 0xFFFF:
            self.fail("version", "this is a big-endian GGUF file; only little-endian ones are supported")
        if version not in (2, 3):
            self.fail("version", f"GGUF version {version} is not supported, only 2 and 3")
        # The smallest tensor info takes 32 bytes, the smallest key-value 13.
        num_tensors = self.count("<Q", "tensor count", MAX_TENSORS, 32)
        return num_tensors, self.count("<Q", "key-value count", MAX_KEYS, 13)

    def metadata(self, count: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for _ in range(count):
            key = self.string("key", MAX_NAME_BYTES)
            if key in result:
                self.fail(key, "the key is there twice")
            result[key] = self.value(key)
        return result

    def value(self, field: str) -> Any:
        kind = self.number("<I", field)
        if kind == _STRING:
            text = self.string(field)
            self.charge(field, sys.getsizeof(text))
            return text
        if kind == _ARRAY:
            return self.array(field)
        if kind not in _NUMBERS:
            self.fail(field, f"unknown value type {kind}")
        value = self.number(_NUMBERS[kind], field)
        if kind != _BOOL:
            return value
        return bool(value) if value <= 1 else self.fail(field, f"a boolean of value {value}")

    def array(self, field: str) -> list[str] | NDArray[Any]:
        kind = self.number("<I", field)
        if kind == _STRING:
            return self.strings(field)
        if kind == _ARRAY:
            self.fail(field, "arrays of arrays are not supported")
        if kind not in _NUMBERS:
            self.fail(field, f"unknown array type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        count = self.count("<Q", field, len(self.bytes), dtype.itemsize)
        values = self.take(count * dtype.itemsize, field).view(dtype)
        if kind != _BOOL:
            return values
        return values.view(np.bool_) if values.max(initial=0) <= 1 else self.fail(field, "has booleans above 1")

    def strings(self, field: str) -> list[str]:
        count = self.count("<Q", field, self.strings_left, 8)
        self.strings_left -= count
        result: list[str] = []
        while len(result) < count:
            some = self.some_strings(min(1024, count - len(result)), field)
            self.charge(field, sum(map(sys.getsizeof, some)) + 8 * len(some))
            result += some
        return result

    def some_strings(self, count: int, field: str) -> list[str]:
        """The next `count` strings of an array. Vocabularies have 100,000s: this loop is kept tight."""
        result: list[str] = []
        append, length_at = result.append, struct.Struct("<Q").unpack_from
        data, size, position = self.bytes, len(self.bytes), self.position
        try:
            for _ in range(count):
                begin = position + 8
                if begin > size:
                    self.fail(field, "the file ends inside of the array: it is truncated?")
                position = begin + length_at(data, position)[0]
                if position > size:
                    self.fail(field, f"a string of {position - begin} bytes in the {size - begin} that remain")
                if position - begin > 4096:
                    self.charge(field, 4 * (position - begin))
                append(data[begin:position].decode())
        except UnicodeDecodeError:
            self.fail(field, "has a string that is not valid UTF-8")
        self.position = position
        return result

    def charge(self, field: str, size: int) -> None:
        """Account for `size` bytes of decoded strings."""
        self.memory_left -= size
        if self.memory_left < 0:
            self.fail(field, "the metadata's strings take more memory than the file and its budget")

    def tensor_info(self) -> _TensorInfo:
        name = self.string("tensor name", MAX_NAME_BYTES)
        field = name or "tensor name"
        rank = self.number("<I", field)
        if not 1 <= rank <= MAX_RANK:
            self.fail(field, f"rank {rank} is not supported, only 1 to {MAX_RANK}")
        shape = tuple(self.number("<Q", field) for _ in range(rank))[::-1]
        if not 0 < math.prod(shape) < 2**63:
            self.fail(field, f"the shape {list(shape)} has no element, or more than fit into 63 bits")
        kind = self.number("<I", field)
        if kind not in _FORMATS:
            self.fail(field, f"ggml type {kind} is not supported, only {', '.join(_FORMATS.values())}")
        return self.number("<Q", field), name, _FORMATS[kind], shape
