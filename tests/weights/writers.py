"""Writers of small model files, valid and lying, and the bounds that every loader must keep."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

U8, I32, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 5, 4, 6, 7, 8, 9, 10
_CODES = {U8: "<B", I32: "<i", U32: "<I", F32: "<f", BOOL: "<B", U64: "<Q"}


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file; `header` is text, bytes, or what JSON is made of."""
    if not isinstance(header, (str, bytes)):
        header = json.dumps(header)
    encoded = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(begin: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def text(value: str | bytes, length: int | None = None) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded


def key_value(key: str | bytes, kind: int, value: Any) -> bytes:
    """One key-value of GGUF; `value` may be bytes, which are taken as they are."""
    head = text(key) + struct.pack("<I", kind)
    if isinstance(value, bytes):
        return head + value
    return head + (text(value) if kind == STRING else struct.pack(_CODES[kind], value))


def array(kind: int, values: list[Any], count: int | None = None) -> bytes:
    """The value of a GGUF array."""
    head = struct.pack("<IQ", kind, len(values) if count is None else count)
    return head + b"".join(text(v) if kind == STRING else struct.pack(_CODES[kind], v) for v in values)


def tensor_info(name: str | bytes, dims: list[int], kind: int = 0, offset: int = 0, rank: int | None = None) -> bytes:
    """`dims` innermost first, as GGUF has them."""
    rank = len(dims) if rank is None else rank
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", rank, *dims, kind, offset)


def gguf(
    keys: list[bytes],
    infos: list[bytes] | None = None,
    data: bytes = b"",
    *,
    version: int = 3,
    num_keys: int | None = None,
    num_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    infos = infos or []
    num_keys = len(keys) if num_keys is None else num_keys
    num_tensors = len(infos) if num_tensors is None else num_tensors
    head = b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + b"".join(keys) + b"".join(infos)
    padding = -len(head) % alignment if data else 0
    return head + bytes(padding) + data


@contextmanager
def bounded_memory(path: Path) -> Iterator[None]:
    """Fail if the body allocates more than the file's size and 64 MB."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        limit = path.stat().st_size + (64 << 20)
        assert peak <= limit, f"{peak} bytes were allocated; at most {limit} are allowed"
