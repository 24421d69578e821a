"""Parsing model.bin of CTranslate2: named variables one after the other, then other names for some of them.

Read by hand, as a guard: a count or size that a file gives is compared with what remains before it is used.

Layout: u32 binary version, string specification, u32 its revision; u32 count and the variables, each a string name,
u8 rank, u32 dimensions, u8 type, u32 bytes, data; u32 count and the aliases, each a string alias and a string name. A
string is its u16 length with a closing NUL, and its bytes. Everything is little endian, and nothing is aligned.
Source: CTranslate2's writer (python/ctranslate2/specs/model_spec.py) and its reader (src/models/model.cc).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelLoadError, one_line
from octavo.weights.files import map_bytes, refuse_pickle

VERSIONS = (4, 5, 6)
MAX_VARIABLES = 32768
MAX_NAME_BYTES = 1024
MAX_RANK = 3  # a convolution's weight
# The types by their ids: what a checkpoint calls them, and how struct and numpy write one element.
_TYPES = (("F32", "<f4"), ("I8", "<i1"), ("I16", "<i2"), ("I32", "<i4"), ("F16", "<f2"), ("BF16", "<u2"))
_SMALLEST_VARIABLE = 11  # bytes: a name of one character, rank, type, number of bytes, and one byte of data
_SMALLEST_ALIAS = 8  # bytes: two such names


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """A variable with dimensions, outermost first. `data` is a read-only view of the mapped file."""

    dtype: str  # F32, F16, BF16, I8, I16 or I32
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class CTranslate2File:
    """One parsed file. `settings` are the variables without dimensions; `aliases` map a name to that of an array."""

    path: Path
    specification: str
    revision: int
    settings: dict[str, float]
    arrays: dict[str, Array]
    aliases: dict[str, str]


def read_ctranslate2(path: Path) -> CTranslate2File:
    """Map and validate a model.bin. Raises ModelLoadError."""
    reader = _Reader(path)
    specification, revision = reader.header()
    file = CTranslate2File(path, specification, revision, {}, {}, {})
    for _ in range(reader.count("variable count", _SMALLEST_VARIABLE)):
        name = reader.string("variable name")
        if name in file.settings or name in file.arrays:
            reader.fail(name, "the variable is there twice")
        variable = reader.variable(name)
        if variable.shape:
            file.arrays[name] = variable
        else:
            file.settings[name] = reader.scalar(name, variable)
    for _ in range(reader.count("alias count", _SMALLEST_ALIAS)):
        alias, name = reader.string("alias"), reader.string("name of an alias")
        if alias in file.settings or alias in file.arrays or alias in file.aliases:
            reader.fail(alias, "the alias is the name of another variable too")
        if name not in file.arrays:
            reader.fail(alias, f"is an alias of {name}, which is no array of the file")
        file.aliases[alias] = name
    if reader.remaining:
        reader.fail("aliases", f"{reader.remaining} bytes follow after the last one")
    return file


class _Reader:
    """A cursor over the mapped file. Whatever it reads is first compared with the bytes that remain."""

    def __init__(self, path: Path):
        self.path = path
        self.bytes = map_bytes(path)
        self.content: NDArray[np.uint8] = np.frombuffer(self.bytes, np.uint8)
        self.position = 0

    @property
    def remaining(self) -> int:
        return len(self.bytes) - self.position

    def fail(self, field: str, reason: str) -> Any:
        """Always raises; declared to return anything so that it can end an expression."""
        raise ModelLoadError(self.path, field, reason)

    def header(self) -> tuple[str, int]:
        """The name of the specification and its revision."""
        if len(self.bytes) < 4 or self.number("<I", "binary version") not in VERSIONS:
            refuse_pickle(self.path, self.bytes[:8])
            reason = f"the file begins with {self.bytes[:4]!r}, not with a version of CTranslate2's format, {VERSIONS}"
            self.fail("binary version", f"{reason}; what is supported is CTranslate2, safetensors and GGUF")
        return self.string("specification"), self.number("<I", "revision")

    def number(self, format: str, field: str) -> int:
        if struct.calcsize(format) > self.remaining:
            self.fail(field, f"the file ends at byte {len(self.bytes)}, inside of it: it is truncated?")
        (value,) = struct.unpack_from(format, self.bytes, self.position)
        self.position += struct.calcsize(format)
        return int(value)

    def count(self, field: str, smallest: int) -> int:
        """How many entries of at least `smallest` bytes follow."""
        count = self.number("<I", field)
        if count > min(MAX_VARIABLES, self.remaining // smallest):
            self.fail(field, f"{count} in {self.remaining} bytes; at most {MAX_VARIABLES} are accepted")
        return count

    def string(self, field: str) -> str:
        length = self.number("<H", field)
        if length > MAX_NAME_BYTES:
            self.fail(field, f"a string of {length} bytes; at most {MAX_NAME_BYTES} are accepted")
        text = self.take(length, field).tobytes()
        name = text[:-1].decode("latin-1")
        if not name or text[-1] or not (name.isascii() and name.isprintable()):
            self.fail(field, f"{one_line(repr(text), 80)} is not printable ASCII with a closing NUL")
        return name

    def take(self, length: int, field: str) -> NDArray[np.uint8]:
        """The next `length` bytes, not copied."""
        if length > self.remaining:
            self.fail(field, f"{length} bytes in the {self.remaining} that remain: the file is truncated?")
        self.position += length
        return self.content[self.position - length : self.position]

    def variable(self, name: str) -> Array:
        rank = self.number("<B", name)
        if rank > MAX_RANK:
            self.fail(name, f"rank {rank} is not supported, only up to {MAX_RANK}")
        shape = tuple(self.number("<I", name) for _ in range(rank))
        kind = self.number("<B", name)
        if kind >= len(_TYPES):
            self.fail(name, f"type {kind} is not supported, only {', '.join(dtype for dtype, _ in _TYPES)}")
        dtype, element = _TYPES[kind]
        expected = math.prod(shape) * np.dtype(element).itemsize
        length = self.number("<I", name)
        if length != expected or not expected:
            self.fail(name, f"{dtype} of shape {list(shape)} takes {expected} bytes, not {length}")
        return Array(dtype, shape, self.take(length, name))

    def scalar(self, name: str, variable: Array) -> float:
        value: float = np.frombuffer(variable.data.tobytes(), dict(_TYPES)[variable.dtype])[0].item()
        return value if variable.dtype != "BF16" else self.fail(name, "a single BF16 is not supported")
