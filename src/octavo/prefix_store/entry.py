"""A file of the store: a header, which names and seals what follows, and the bytes of a block or of a state.

What is read is taken only if its size is the expected one, it is for the key that was asked for, and SHA-256 of all of
it is what the header says. Anything else is damaged, and as good as nothing.
"""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from struct import Struct
from typing import Any

import numpy as np

MAGIC = b"octavo prefix 1\n"
_HEADER = Struct(f"<{len(MAGIC)}s32sQ")  # magic, key, bytes that follow the header
HEADER_BYTES = _HEADER.size + 32  # with the checksum of all other bytes
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class DamagedError(Exception):
    """A file is not what its name says: it was cut, changed, or is of something else."""


def header(key: bytes, contents: Bytes) -> bytes:
    """What is written before the contents of `key`, which is 32 bytes."""
    begin = _HEADER.pack(MAGIC, key, contents.nbytes)
    return begin + _checksum(begin, contents)


def read(descriptor: int, key: bytes, num_bytes: int) -> Bytes:
    """The contents of an open file: uint8 [num_bytes]. Raises DamagedError, or OSError.

    No more memory is taken than that, whatever the file says of itself.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != HEADER_BYTES + num_bytes:
        raise DamagedError("its size is not that of a block of this model")
    begin, contents = bytearray(HEADER_BYTES), np.empty(num_bytes, np.uint8)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        for part in (memoryview(begin), contents.data):
            while part:
                if not (count := file.readinto(part)):
                    raise DamagedError("it ends early")
                part = part[count:]
    if bytes(begin[: _HEADER.size]) != _HEADER.pack(MAGIC, key, num_bytes):
        raise DamagedError("its header is of something else")
    if bytes(begin[_HEADER.size :]) != _checksum(begin[: _HEADER.size], contents):
        raise DamagedError("its checksum is wrong")
    return contents


def _checksum(begin: bytes | bytearray, contents: Bytes) -> bytes:
    found = sha256(begin)
    found.update(contents.data)
    return found.digest()
