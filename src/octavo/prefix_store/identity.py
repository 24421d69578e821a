"""What decides the keys and values of a text besides the text, as a digest: the root of all keys of the store.

Two processes have it in common only if they would compute the same bits: the same weights, of whatever name; the same
graph and options; the same code and kernels, for the same instruction set.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from hashlib import file_digest, sha256
from inspect import isfunction
from pathlib import Path
from typing import Any

import numpy as np

from octavo import _native
from octavo.graph.builder import Graph

CODE = ("executor", "graph", "weights")  # folders of the package whose code decides bits
_UNIQUE = secrets.token_hex(16)


def identity(
    graphs: Iterable[Graph], files: Iterable[Path], options: Mapping[str, Any], memo: Path | None = None
) -> bytes:
    """SHA-256 of everything: the graphs, the whole contents of the model's files, `options`, code, libraries, machine.

    `memo` is a folder in which digests of files are kept, so that they are read once; see `digest_of`.
    """
    found = sha256()
    for part in (
        *sorted(digest_of(file, memo) for file in {*files}),
        code_digest(memo),
        *(_plain(graph_as_data(graph)) for graph in graphs),
        _plain({**options, "isa": _native.isa(), "libraries": _libraries(options)}),
    ):
        found.update(sha256(part.encode("utf-8", "surrogatepass")).digest())
    return found.digest()


def digest_of(file: Path, memo: Path | None = None) -> str:
    """SHA-256 of a file's contents, in hexadecimal.

    It is read again only if its device, inode, size, time of change or time of its inode's change are others: the last
    of these can't be set by a program. Raises OSError.
    """
    status = file.stat()
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    note = None if memo is None else memo / sha256(repr(stamp).encode()).hexdigest()
    if note is not None:
        with suppress(OSError, UnicodeDecodeError):
            if re.fullmatch(r"[0-9a-f]{64}", known := note.read_text("ascii")):
                return known
    with file.open("rb") as opened:
        digest = file_digest(opened, "sha256").hexdigest()
    if note is not None:
        with suppress(OSError):  # then it is read again next time
            temporary = note.with_name(f"{note.name[:16]}-{secrets.token_hex(8)}")
            temporary.write_text(digest, "ascii")
            os.rename(temporary, note)
    return digest


def code_digest(memo: Path | None = None) -> str:
    """Of the Python that decides bits, and of the native library."""
    root, found = Path(__file__).parents[1], sha256()
    for path in sorted(path for folder in CODE for path in (root / folder).rglob("*.py")):
        found.update(sha256(path.relative_to(root).as_posix().encode()).digest() + sha256(path.read_bytes()).digest())
    found.update(digest_of(Path(str(_native.__file__)), memo).encode())
    return found.hexdigest()


def graph_as_data(graph: Graph) -> list[Any]:
    """Each node's kind, the numbers of its inputs, and whatever else it has."""
    numbers = {id(node): i for i, node in enumerate(graph.nodes)}

    def plain(value: Any) -> Any:
        if id(value) in numbers:
            return numbers[id(value)]
        if isinstance(value, np.ndarray):
            return ["array", str(value.dtype), value.shape, sha256(value.tobytes()).hexdigest()]
        if is_dataclass(value):
            return [type(value).__name__, *((one.name, plain(getattr(value, one.name))) for one in fields(value))]
        if isinstance(value, Mapping):
            return [[plain(key), plain(one)] for key, one in value.items()]
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return value

    return [
        [type(node).__name__, *((one.name, plain(getattr(node, one.name))) for one in fields(node))]
        for node in graph.nodes
    ]


def _plain(value: Any) -> str:
    """Values as text, which is the same in every process. What can't be told from others is equal to nothing else."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key!r}:{_plain(value[key])}" for key in sorted(value, key=repr)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_plain, value)) + "]"
    if isinstance(value, set | frozenset):
        return "{" + ",".join(sorted(map(_plain, value))) + "}"
    text = repr(value)
    return f"{value.__module__}.{value.__qualname__}" if isfunction(value) else text + _UNIQUE * (" at 0x" in text)


def _libraries(options: Mapping[str, Any]) -> list[str]:
    """Versions of what else computes: the C library and numpy; for the torch executor PyTorch, Triton, the device."""
    found = [platform.machine(), *platform.libc_ver(), np.__version__]
    if options.get("executor") != "torch":
        return found
    from importlib.metadata import PackageNotFoundError, version

    import torch

    for name in ("torch", "triton", "transformers"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    if options.get("device") == "cuda":
        found += [torch.cuda.get_device_name(), str(torch.cuda.get_device_capability()), str(torch.version.cuda)]
    return found
