"""Models in an object store: s3:// and gs://, by fsspec with the packages that know these stores.

Who asks, where and at which endpoint is what those packages read: AWS_* and ~/.aws, GOOGLE_APPLICATION_CREDENTIALS.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from octavo.errors import ModelNotFoundError, one_line
from octavo.weights.selection import Selection, parts_of
from octavo.weights.sources.base import RemoteFile, Source, UnavailableError

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_EXTRAS = {"s3": "s3", "gs": "gcs"}
_ADVICE = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL if it is not Amazon's",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials",
}
_VERSIONS = ("ETag", "etag", "LastModified", "mtime", "created")  # by the names that fsspec's packages have
# Octavo tries again by itself, and says so earlier.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 1}}},
    "gs": {},
}
_BLOCK = 16 << 20  # bytes of one request
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google")
# What stores say with errors of their own; those of the network may pass, the others not.
_FINAL = ("NoCredentials", "PartialCredentials", "ParamValidation", "NoRegion", "Profile", "Credential", "RefreshError")


def open_source(reference: str, revision: str | None) -> Source:
    """Raises ModelNotFoundError if the reference has no bucket."""
    scheme, _, place = reference.partition("://")
    place = place.strip("/")
    if not place or "//" in place or not place.isprintable():
        raise ModelNotFoundError(f"{one_line(reference)} is not {scheme}://BUCKET/FOLDER or …/FILE.gguf")
    return ObjectStore(scheme, place)


def _connect(scheme: str) -> Any:
    """fsspec's file system of a scheme."""
    try:
        import fsspec

        files: Any = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **_OPTIONS[scheme])
        files.retries = 1
        return files
    except ImportError as error:
        raise ModelNotFoundError(
            f"{scheme}:// needs the package {_PACKAGES[scheme]} ({one_line(str(error))}): "
            f"pip install '{_PACKAGES[scheme]}', or Octavo with its extra [{_EXTRAS[scheme]}]"
        ) from None
    except Exception as error:  # those of the store's own package, as of a broken file of credentials
        raise ModelNotFoundError(f"{scheme}://: {one_line(str(error))}; {_ADVICE[scheme]}") from None


class ObjectStore(Source):
    """A folder of a bucket, or a .gguf file with its parts."""

    def __init__(self, scheme: str, place: str):
        self.reference, self._scheme = f"{scheme}://{place}", scheme
        self._is_file = place.endswith(".gguf")
        self._place, _, name = place.rpartition("/") if self._is_file else (place, "", "")
        self.selection = Selection(self.reference, name) if self._is_file else Selection(self.reference, anywhere=True)

    @cached_property
    def _files(self) -> Any:
        """Made when it is needed: importing what knows a store takes a second."""
        return _connect(self._scheme)

    def list_files(self, timeout: float) -> list[RemoteFile]:
        with self._failures():
            if self._is_file:
                names = parts_of(str(self.selection.file))
                infos = {name: self._files.info(f"{self._place}/{name}") for name in names}
            else:
                root = f"{self._place}/"
                found = self._files.find(self._place, detail=True)
                infos = {key.lstrip("/").removeprefix(root): info for key, info in found.items()}
                if not infos:
                    raise ModelNotFoundError(f"{self.reference} does not exist, or is empty")
            return [self._describe(name, infos[name]) for name in self.selection.choose(infos)]

    @contextmanager
    def open(self, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        with self._failures():
            opened = self._files.open(file.place, "rb", cache_type="none", block_size=_BLOCK)
        with opened:
            yield start, self._chunks(opened, start)

    def _chunks(self, opened: Any, start: int) -> Iterator[bytes]:
        """Only what the store does is taken for its failure, not what is done with the chunks."""
        with self._failures():
            opened.seek(start)
        while True:
            with self._failures():
                chunk = bytes(opened.read(_BLOCK))
            if not chunk:
                return
            yield chunk

    def _describe(self, name: str, info: Mapping[str, Any]) -> RemoteFile:
        version = next((info[key] for key in _VERSIONS if info.get(key)), None)
        place, size = str(info["name"]), info.get("size")
        sha256 = self._s3_sha256(place) if self._scheme == "s3" else None
        return RemoteFile(name, size, sha256, None if version is None else str(version).strip('"'), place)

    def _s3_sha256(self, place: str) -> str | None:
        """The checksum of an object that was stored with one, as `aws s3 cp --checksum-algorithm SHA256` does."""
        bucket, _, key = place.partition("/")
        said = self._files.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED").get("ChecksumSHA256")
        try:
            digest = base64.b64decode(said or "", validate=True)
        except binascii.Error:  # that of an object in parts, which is one of checksums
            return None
        return digest.hex() if len(digest) == 32 else None

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What stores raise, as fsspec's packages translate it or not."""
        try:
            yield
        except FileNotFoundError:
            raise ModelNotFoundError(f"{self.reference} does not exist") from None
        except PermissionError as error:
            raise ModelNotFoundError(
                f"{self.reference}: access is denied ({one_line(str(error))}); {_ADVICE[self._scheme]}"
            ) from None
        except (ModelNotFoundError, UnavailableError):
            raise
        except Exception as error:
            name, module = type(error).__name__, type(error).__module__.split(".")[0]
            if name.startswith(_FINAL):
                raise ModelNotFoundError(f"{self.reference}: {one_line(str(error))}; {_ADVICE[self._scheme]}") from None
            if isinstance(error, OSError) or module in _CLIENTS:
                raise UnavailableError(f"{name}: {one_line(str(error))}") from None
            raise
