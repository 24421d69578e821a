"""Reading files that may be hostile: mapping them, and parsing JSON inside a fixed budget of memory."""

from __future__ import annotations

import mmap
import os
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import strict_json
from octavo.errors import ModelLoadError, one_line

MEMORY_BUDGET = 64 << 20  # bytes that reading a file may take beyond the file's own size
_BYTES_PER_MARK = 120  # what a comma, bracket or brace of JSON costs at most once it is Python objects

MOST_PARTS = 1000
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.[a-z]+)")

_LFS_POINTER = b"version https://git-lfs"
# What torch.save writes: a zip, formerly bare pickles.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

PICKLE_REFUSED = "pickled PyTorch weights are refused since loading them runs code; convert to safetensors"


def map_file(path: Path) -> mmap.mmap:
    """Map the whole file for reading. Slices of the result are copies.

    Raises ModelLoadError if it can't be read, or is a Git LFS pointer.
    """
    try:
        # A FIFO would block for ever, so it is opened without waiting and then refused.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ModelLoadError(path, "file", (error.strerror or "can't be opened").lower()) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelLoadError(path, "file", "not a regular file")
        if status.st_size == 0:
            raise ModelLoadError(path, "file", "the file is empty")
        try:
            mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelLoadError(path, "file", f"can't be mapped: {error}") from None
    finally:
        os.close(descriptor)
    if mapping[: len(_LFS_POINTER)] == _LFS_POINTER:
        raise ModelLoadError(path, "file", "this is a Git LFS pointer, not the weights: run git lfs pull")
    return mapping


class BinaryReader:
    """A cursor over the fields of a mapped file. Whatever it reads is first compared with the bytes that remain."""

    def __init__(self, path: Path):
        self.path = path
        self.bytes = map_file(path)
        self.content: NDArray[np.uint8] = np.frombuffer(self.bytes, np.uint8)
        self.position = 0

    @property
    def remaining(self) -> int:
        return len(self.bytes) - self.position

    def fail(self, field: str, reason: str) -> Any:
        """Always raises; declared to return anything so that it can end an expression."""
        raise ModelLoadError(self.path, field, reason)

    def number(self, format: str, field: str) -> Any:
        """The next number, written in a `format` of struct."""
        if struct.calcsize(format) > self.remaining:
            self.fail(field, f"the file ends at byte {len(self.bytes)}, inside of it: it is truncated?")
        (value,) = struct.unpack_from(format, self.bytes, self.position)
        self.position += struct.calcsize(format)
        return value

    def count(self, format: str, field: str, limit: int, smallest: int = 1) -> int:
        """A number of entries that follow, each of at least `smallest` bytes; of bytes, unless it is given."""
        count: int = self.number(format, field)
        if count > min(limit, self.remaining // smallest):
            reason = f"{count} in the {self.remaining} bytes that remain; at most {limit} are accepted"
            self.fail(field, f"{reason}; is the file truncated?")
        return count

    def take(self, length: int, field: str) -> NDArray[np.uint8]:
        """The next `length` bytes, not copied."""
        if length > self.remaining:
            self.fail(field, f"{length} bytes in the {self.remaining} that remain: the file is truncated?")
        self.position += length
        return self.content[self.position - length : self.position]


def refuse_pickle(path: Path, start: bytes) -> None:
    """Raises ModelLoadError if a file that is not of its reader's format begins as a pickle does.

    The formats are asked first: a pickle's first bytes can be the length of a safetensors header.
    """
    if start.startswith(_PICKLES):
        raise ModelLoadError(path, "file", PICKLE_REFUSED)


def read_json(path: Path, budget: int = MEMORY_BUDGET) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelLoadError."""
    return parse_object(map_file(path)[:], path, "file", budget)


def parse_object(data: bytes, file: Path, field: str, budget: int = MEMORY_BUDGET) -> dict[str, Any]:
    """Parse strict JSON whose outermost value is an object; see `parse_json`."""
    value = parse_json(data, file, field, budget)
    if not isinstance(value, dict):
        raise ModelLoadError(file, field, f"expected a JSON object, found {type(value).__name__}")
    return value


def parse_json(data: bytes, file: Path, field: str, budget: int = MEMORY_BUDGET) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, no deep nesting.

    Raises ModelLoadError. What would take more than `budget` bytes beyond its own size is refused unparsed.
    """
    wide = not data.isascii() or b"\\u" in data  # one emoji makes a Python string four bytes a character
    marks = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if len(data) * (9 if wide else 3) + marks * _BYTES_PER_MARK > len(data) + budget:
        raise ModelLoadError(file, field, f"{len(data)} bytes of JSON with {marks} entries are too large")
    try:
        return strict_json.loads(data, _short_int)
    except ValueError as error:
        raise ModelLoadError(file, field, f"invalid JSON: {one_line(str(error))}") from None


def _short_int(digits: str) -> int:
    if len(digits) > 32:  # parsing thousands of digits takes quadratic time
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def code_of(config: Mapping[str, Any], name: str) -> str:
    """What to add to an error about a checkpoint that brings code of its own in place of what is missing.

    `name` is the class of transformers that would load it, by `auto_map`.
    """
    places = config.get("auto_map")
    place = places.get(name) if isinstance(places, dict) else places
    found = next((one for one in (place if isinstance(place, list) else [place]) if isinstance(one, str)), None)
    return "" if found is None else f"; its own code, {one_line(found, 120)}, is never run"


def check_whole(file: Path) -> None:
    """Raises ModelLoadError, naming them, where parts of a file called NAME-00001-of-0000N.suffix are missing."""
    match = _PART.fullmatch(file.name)
    if match is None or not 0 < int(match[3]) <= MOST_PARTS:
        return
    names = [f"{match[1]}-{part:05d}-of-{match[3]}{match[4]}" for part in range(1, int(match[3]) + 1)]
    if missing := [name for name in names if not file.with_name(name).exists()]:
        raise ModelLoadError(file, missing[0], f"this part of {len(names)} is missing{and_others(missing)}")


def and_others(names: Sequence[str]) -> str:
    """How to go on after the first of `names`."""
    shown = ", ".join(names[1:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"; so are {shown}{more}" if shown else ""
