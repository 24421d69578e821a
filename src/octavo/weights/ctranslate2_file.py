"""Parsing model.bin of CTranslate2: named variables one after the other, then other names for some of them.

Read by hand, as a guard: a count or size that a file gives is compared with what remains before it is used.

Layout: u32 binary version, string specification, u32 its revision; u32 count and the variables, each a string name,
u8 rank, u32 dimensions, u8 type, u32 bytes, data; u32 count and the aliases, each a string alias and a string name. A
string is its u16 length with a closing NUL, and its bytes. Everything is little endian, and nothing is aligned.
Source: CTranslate2's writer (python/ctranslate2/specs/model_spec.py) and its reader (src/models/model.cc).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octavo.errors import one_line
from octavo.weights.files import BinaryReader, refuse_pickle
from octavo.weights.tensor import StoredTensor

VERSIONS = (4, 5, 6)
MAX_VARIABLES = 32768
MAX_NAME_BYTES = 1024
MAX_RANK = 3  # a convolution's weight
# The types by their ids: what a checkpoint calls them, and how struct and numpy write one element.
_TYPES = (("F32", "<f4"), ("I8", "<i1"), ("I16", "<i2"), ("I32", "<i4"), ("F16", "<f2"), ("BF16", "<u2"))
_SMALLEST_VARIABLE = 11  # bytes: a name of one character, rank, type, number of bytes, and one byte of data
_SMALLEST_ALIAS = 8  # bytes: two such names


@dataclass(frozen=True, slots=True, eq=False)
class CTranslate2File:
    """One parsed file. `settings` are the variables without dimensions; `aliases` map a name to that of an array.

    Of `arrays` the format is one of `_TYPES`, and the data a read-only view of the mapped file.
    """

    specification: str
    revision: int
    settings: dict[str, float]
    arrays: dict[str, StoredTensor]
    aliases: dict[str, str]


def read_ctranslate2(path: Path) -> CTranslate2File:
    """Map and validate a model.bin. Raises ModelLoadError."""
    reader = _Reader(path)
    specification, revision = reader.header()
    file = CTranslate2File(specification, revision, {}, {}, {})
    for _ in range(reader.count("<I", "variable count", MAX_VARIABLES, _SMALLEST_VARIABLE)):
        name = reader.string("variable name")
        if name in file.settings or name in file.arrays:
            reader.fail(name, "the variable is there twice")
        variable = reader.variable(name)
        if variable.shape:
            file.arrays[name] = variable
        else:
            file.settings[name] = reader.scalar(name, variable)
    for _ in range(reader.count("<I", "alias count", MAX_VARIABLES, _SMALLEST_ALIAS)):
        alias, name = reader.string("alias"), reader.string("name of an alias")
        if alias in file.settings or alias in file.arrays or alias in file.aliases:
            reader.fail(alias, "the alias is the name of another variable too")
        if name not in file.arrays:
            reader.fail(alias, f"is an alias of {name}, which is no array of the file")
        file.aliases[alias] = name
    if reader.remaining:
        reader.fail("aliases", f"{reader.remaining} bytes follow after the last one")
    return file


class _Reader(BinaryReader):
    def header(self) -> tuple[str, int]:
        """The name of the specification and its revision."""
        if len(self.bytes) < 4 or self.number("<I", "binary version") not in VERSIONS:
            refuse_pickle(self.path, self.bytes[:8])
            reason = f"the file begins with {self.bytes[:4]!r}, not with a version of CTranslate2's format, {VERSIONS}"
            self.fail("binary version", f"{reason}; what is supported is CTranslate2, safetensors and GGUF")
        return self.string("specification"), self.number("<I", "revision")

    def string(self, field: str) -> str:
        text = self.take(self.count("<H", field, MAX_NAME_BYTES), field).tobytes()
        name = text[:-1].decode("latin-1")
        if not name or text[-1] or not (name.isascii() and name.isprintable()):
            self.fail(field, f"{one_line(repr(text), 80)} is not printable ASCII with a closing NUL")
        return name

    def variable(self, name: str) -> StoredTensor:
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
        return StoredTensor(name, dtype, shape, self.take(length, name), file=self.path)

    def scalar(self, name: str, variable: StoredTensor) -> float:
        value: float = np.frombuffer(variable.data.tobytes(), dict(_TYPES)[variable.format])[0].item()
        return value if variable.format != "BF16" else self.fail(name, "a single BF16 is not supported")
