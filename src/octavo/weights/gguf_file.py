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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelLoadError, one_line
from octavo.weights.files import MEMORY_BUDGET, map_bytes, refuse_pickle
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
_FORMATS = {layout.ggml_type: name for name, layout in LAYOUTS.items()}


@dataclass(frozen=True, slots=True, eq=False)
class GGUFFile:
    """One parsed file. Strings are `str`, arrays of them `list[str]`, numeric arrays numpy views of the file.

    Tensors have GGUF's names; shapes are row-major (GGUF's dimensions reversed).
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


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
    return GGUFFile(path, metadata, _place(reader, infos, start, alignment))


@dataclass(slots=True)
class _TensorInfo:
    name: str
    format: str
    shape: tuple[int, ...]
    offset: int  # from the start of the data


def single(path: Path, metadata: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """What the metadata say under a key whose value is never an array. Raises ModelLoadError."""
    value = metadata.get(key, default)
    if isinstance(value, list | np.ndarray):
        raise ModelLoadError(path, key, f"is an array of {len(value)} elements, not a single value")
    return value


def _place(reader: _Reader, infos: list[_TensorInfo], start: int, alignment: int) -> dict[str, StoredTensor]:
    """Check where the tensors lie in the data that begins at `start`, and give each its bytes."""
    size = reader.size - start
    tensors: dict[str, StoredTensor] = {}
    previous = 0
    for info in sorted(infos, key=lambda info: info.offset):
        field = one_line(info.name)
        if info.name in tensors:
            reader.fail(field, "the tensor is there twice")
        try:
            length = LAYOUTS[info.format].nbytes(info.shape)
        except ValueError as error:
            reader.fail(field, str(error))
        if info.offset % alignment:
            reader.fail(field, f"offset {info.offset} is not a multiple of the alignment {alignment}")
        if info.offset < previous:
            reader.fail(field, f"begins at byte {info.offset} of the data and overlaps the one up to {previous}")
        previous = info.offset + length
        if previous > size:
            reader.fail(field, f"ends at byte {previous} of {max(size, 0)} bytes of data: the file is truncated?")
        begin = start + info.offset
        tensors[info.name] = StoredTensor(info.name, info.format, info.shape, reader.content[begin : begin + length])
    return tensors


class _Reader:
    """A cursor over the mapped file. Whatever it reads is first compared with the bytes that remain."""

    def __init__(self, path: Path):
        self.path = path
        self.bytes = map_bytes(path)
        self.content: NDArray[np.uint8] = np.frombuffer(self.bytes, np.uint8)
        self.size = len(self.bytes)
        self.position = 0
        self.strings_left = MAX_STRINGS
        self.memory_left = self.size + MEMORY_BUDGET * 5 // 8  # for strings; the rest is for keys and tensors

    def fail(self, field: str, reason: str) -> Any:
        """Always raises; declared to return anything so that it can end an expression."""
        raise ModelLoadError(self.path, field, reason)

    def number(self, format: str, field: str) -> Any:
        if struct.calcsize(format) > self.size - self.position:
            self.fail(field, f"the file ends at byte {self.size}, inside of it: it is truncated?")
        (value,) = struct.unpack_from(format, self.bytes, self.position)
        self.position += struct.calcsize(format)
        return value

    def string(self, field: str, limit: int = MAX_STRING_BYTES) -> str:
        length = self.number("<Q", field)
        if length > self.size - self.position:
            self.fail(field, f"a string of {length} bytes in the {self.size - self.position} that remain")
        if length > limit:
            self.fail(field, f"a string of {length} bytes; at most {limit} are accepted")
        self.position += length
        try:
            return self.bytes[self.position - length : self.position].decode()
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
        num_tensors = self.number("<Q", "tensor count")
        num_keys = self.number("<Q", "key-value count")
        remaining = self.size - self.position
        # The smallest key-value takes 13 bytes, the smallest tensor info 32.
        if num_keys > min(MAX_KEYS, remaining // 13):
            self.fail("key-value count", f"{num_keys} in {remaining} bytes; at most {MAX_KEYS} are accepted")
        if num_tensors > min(MAX_TENSORS, remaining // 32):
            self.fail("tensor count", f"{num_tensors} in {remaining} bytes; at most {MAX_TENSORS} are accepted")
        return num_tensors, num_keys

    def metadata(self, count: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for _ in range(count):
            key = self.string("key", MAX_NAME_BYTES)
            if key in result:
                self.fail(one_line(key), "the key is there twice")
            result[key] = self.value(one_line(key))
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
        count = self.number("<Q", field)
        if kind == _STRING:
            return self.strings(count, field)
        if kind == _ARRAY:
            self.fail(field, "arrays of arrays are not supported")
        if kind not in _NUMBERS:
            self.fail(field, f"unknown array type {kind}")
        itemsize = struct.calcsize(_NUMBERS[kind])
        if count > (self.size - self.position) // itemsize:
            self.fail(field, f"{count} elements in the {self.size - self.position} bytes that remain")
        values = np.frombuffer(self.bytes, np.dtype(_NUMBERS[kind]), count, self.position)
        self.position += values.nbytes
        if kind != _BOOL:
            return values
        return values.view(np.bool_) if values.max(initial=0) <= 1 else self.fail(field, "has booleans above 1")

    def strings(self, count: int, field: str) -> list[str]:
        if count > min(self.strings_left, (self.size - self.position) // 8):
            self.fail(field, f"{count} strings in {self.size - self.position} bytes; {MAX_STRINGS} are accepted")
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
        data, size, position = self.bytes, self.size, self.position
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
        field = one_line(name) or "tensor name"
        rank = self.number("<I", field)
        if not 1 <= rank <= MAX_RANK:
            self.fail(field, f"rank {rank} is not supported, only 1 to {MAX_RANK}")
        shape = tuple(self.number("<Q", field) for _ in range(rank))[::-1]
        if not 0 < math.prod(shape) < 2**63:
            self.fail(field, f"the shape {list(shape)} has no element, or more than fit into 63 bits")
        kind = self.number("<I", field)
        if kind not in _FORMATS:
            self.fail(field, f"ggml type {kind} is not supported, only {', '.join(_FORMATS.values())}")
        return _TensorInfo(name, _FORMATS[kind], shape, self.number("<Q", field))
