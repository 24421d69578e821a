"""Model files out of tar archives, as layers of images are: regular files only, bounded, inside one folder."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from octavo.errors import ModelNotFoundError, one_line
from octavo.weights.selection import is_model_file
from octavo.weights.sources.base import CHUNK, MOST_FILES, RemoteFile, safe_name

LAYERS = ".layers"  # the folder of archives, beside what was in them
_MAX_EXPANSION = 20  # weights hardly compress; what unpacks to more than this is a bomb
_SLACK = 16 << 20  # bytes that any archive may unpack to
_WHITEOUT = ".wh."  # before the name of what an upper layer removes
_DAMAGE = (
    tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError, RecursionError,
    IsADirectoryError, NotADirectoryError, FileExistsError,
)  # fmt: skip


def unpack(layers: Sequence[RemoteFile], folder: Path) -> None:
    """The model files of `layers`, which are in `folder`, where they come to lie too; later ones win.

    The archives are removed. Raises ModelNotFoundError for one that is damaged or hostile, OSError.
    """
    for layer in layers:
        try:
            with open(folder / layer.name, "rb") as raw:
                _unpack(raw, layer, folder)
        except _DAMAGE as error:
            raise ModelNotFoundError(f"layer {layer.place[:19]} can't be unpacked: {one_line(str(error))}") from None
    shutil.rmtree(folder / LAYERS, ignore_errors=True)


def _unpack(raw: IO[bytes], layer: RemoteFile, folder: Path) -> None:
    plain: Any = gzip.GzipFile(fileobj=raw) if layer.archive == "tar+gzip" else raw
    bounded = _Bounded(plain, _MAX_EXPANSION * (layer.size or 0) + _SLACK)
    with tarfile.open(fileobj=bounded, mode="r:") as archive:  # type: ignore[call-overload]
        for member in _members(archive):
            path = PurePosixPath(member.name)
            if not path.is_relative_to(layer.within):
                continue
            if path.name.startswith(_WHITEOUT):
                _remove(folder, PurePosixPath(safe_name(str(path))))
            elif is_model_file(path.name) and not member.isdir():
                path = PurePosixPath(safe_name(str(path)))
                if not member.isreg():
                    raise ValueError(f"{one_line(member.name)} is a link; the image must have the file itself")
                content = archive.extractfile(member)
                assert content is not None
                _write(content, folder / path)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    count = 0
    while (member := archive.next()) is not None:
        count += 1
        if count > MOST_FILES:
            raise ValueError(f"it has more than {MOST_FILES} files")
        archive.members = []  # type: ignore[attr-defined]  # which would keep them all
        yield member


def _write(content: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as sink:
        while chunk := content.read(CHUNK):
            sink.write(chunk)


def _remove(folder: Path, whiteout: PurePosixPath) -> None:
    """What was in lower layers by the name, or all that was in the folder."""
    name = whiteout.name.removeprefix(_WHITEOUT)
    target = folder / whiteout.parent if name == ".wh..opq" else folder / whiteout.parent / safe_name(name)
    if target == folder or folder / LAYERS in (target, *target.parents):
        return
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


class _Bounded:
    """A file that is read forwards, a bit at a time, and not for ever."""

    def __init__(self, file: IO[bytes], limit: int):
        self._file, self._limit = file, limit

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset > self._limit:
            raise ValueError(f"it says that it unpacks to more than {self._limit} bytes")
        return self._file.seek(offset)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK or self._file.tell() > self._limit:
            raise ValueError(f"it unpacks to more than {self._limit} bytes, or has a header of {size}")
        return self._file.read(size)
