"""Models in a registry of images: artifacts whose layers are files, and images with files under /models.

Sources: the distribution and image specifications of OCI (1.1), ModelPack's media types (CNCF model-spec), KServe's
modelcars. Registries on this machine, and those of OCTAVO_PLAIN_REGISTRIES, are asked without encryption.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from octavo.errors import ConfigError, ModelNotFoundError, one_line
from octavo.weights.selection import Selection, is_model_file
from octavo.weights.sources.base import RemoteFile, Source, safe_name
from octavo.weights.sources.http import final, open_range, parse_json
from octavo.weights.sources.oci_login import Login
from octavo.weights.sources.unpack import LAYERS

_REFERENCE = re.compile(
    r"oci://(?P<registry>[A-Za-z0-9.-]+(?::[0-9]{1,5})?)/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# Annotations with a file's name: that of OCI's tools, and ModelPack's.
_NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
# Layers of images, in which only /models is looked into.
_IMAGE_LAYER = re.compile(r"application/vnd\.(oci\.image\.layer|docker\.image\.rootfs)\.")
# Layers without a name that are a GGUF file.
_GGUF_LAYERS = ("application/vnd.ollama.image.model", "application/vnd.docker.ai.gguf.v3")
_UNPACKED = "io.deis.oras.content.unpack"  # on a layer that ORAS made of a folder
_MODELS = "models"  # where images have the model
_MAX_MANIFEST = 4 << 20
_MOST_LAYERS = 1000


def open_source(reference: str, revision: str | None) -> Source:
    """`revision` is a tag or a digest. Raises ModelNotFoundError, ConfigError."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ModelNotFoundError(f"{one_line(reference)} is not oci://REGISTRY/REPOSITORY:TAG or …@sha256:DIGEST")
    wanted = match["digest"] or match["tag"]
    if revision is not None:
        if wanted not in (None, revision):
            raise ConfigError("revision", revision, f"the model is given as {reference}")
        if not re.fullmatch(rf"{_DIGEST.pattern}|[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}", revision):
            raise ConfigError("revision", revision, "must be a tag, or sha256: and a digest")
    registry, repository = match["registry"], match["repository"]
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return Artifact(registry, repository, wanted or revision or "latest")


@dataclass(frozen=True, slots=True)
class _Layer:
    digest: str
    size: int
    media: str
    annotations: Mapping[str, str]

    @property
    def title(self) -> str | None:
        return next((self.annotations[name] for name in _NAMES if name in self.annotations), None)

    @property
    def archive(self) -> str | None:
        """How it is packed, if it is. Raises ModelNotFoundError for a way that is not read here."""
        packed = re.search(r"[.+/]tar([.+]\w+)?$", self.media)
        if packed is None:
            gzipped = self.annotations.get(_UNPACKED) == "true" or self.media.endswith("+gzip")
            return "tar+gzip" if gzipped else None
        how = (packed[1] or "").lstrip(".+")
        if how not in ("", "gzip"):
            raise ModelNotFoundError(f"layer {self.digest[:19]} is packed with {how}; only gzip is read")
        return f"tar+{how}".rstrip("+")


class Artifact(Source):
    def __init__(self, registry: str, repository: str, wanted: str):
        self.pinned = _DIGEST.fullmatch(wanted) is not None
        self.reference = f"oci://{registry}/{repository}{'@' if self.pinned else ':'}{wanted}"
        host = "registry-1.docker.io" if registry == "docker.io" else registry
        self._base = f"{'http' if _is_plain(registry) else 'https'}://{host}/v2/{repository}"
        self._login, self._wanted = Login(registry, repository), wanted
        self.selection = Selection(self.reference, anywhere=True)

    def list_files(self, timeout: float) -> list[RemoteFile]:
        manifest = self._manifest(self._wanted, timeout)
        if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
            manifest = self._manifest(_pick_platform(manifest, self.reference), timeout)
        files = [file for layer in self._layers(manifest) if (file := _as_file(layer)) is not None]
        if not any(file.archive for file in files):
            chosen = set(self.selection.choose(file.name for file in files))
            files = [file for file in files if file.name in chosen]
        return files

    @contextmanager
    def open(self, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        url = f"{self._base}/blobs/{file.place}"
        blob = self._login.authorized(lambda headers: open_range(url, start, headers, None))
        with final(f"{self.reference}: {file.place[:19]}", self._login.advice), blob as opened:
            yield opened

    def _manifest(self, wanted: str, timeout: float) -> dict[str, Any]:
        """The manifest or index of a tag or digest. Raises as list_files."""
        url = f"{self._base}/manifests/{wanted}"
        accept = ", ".join((*_MANIFESTS, *_INDEXES))
        with final(self.reference, self._login.advice):
            body, said = self._login.read(url, {"Accept": accept}, timeout, _MAX_MANIFEST)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        expected = wanted if _DIGEST.fullmatch(wanted) else said
        if expected and expected.startswith("sha256:") and expected != digest:
            raise ModelNotFoundError(f"{self.reference}: its manifest has {digest}, not {expected}")
        manifest = parse_json(body, url)
        if not isinstance(manifest, dict):
            raise ModelNotFoundError(f"{self.reference}: its manifest is no JSON object")
        return manifest

    def _layers(self, manifest: Mapping[str, Any]) -> list[_Layer]:
        said = manifest.get("layers")
        if not isinstance(said, list) or not 0 < len(said) <= _MOST_LAYERS:
            raise ModelNotFoundError(f"{self.reference}: its manifest has no layers, or more than {_MOST_LAYERS}")
        layers = [_read_layer(one) for one in said]
        if None in layers:
            raise ModelNotFoundError(f"{self.reference}: a layer lacks a sha256 digest, a size or a type")
        # A layer may stand there often, such as an empty one; files of equal contents are several.
        return list({(one.digest, None if one.archive else one.title): one for one in layers if one}.values())


def _read_layer(said: Any) -> _Layer | None:
    """None of one that is not as the specification has it."""
    try:
        annotations = {str(name): str(value) for name, value in (said.get("annotations") or {}).items()}
        layer = _Layer(said["digest"], said["size"], said["mediaType"], annotations)
        sound = _DIGEST.fullmatch(layer.digest) and isinstance(layer.size, int) and layer.size >= 0
        return layer if sound and isinstance(layer.media, str) else None
    except (KeyError, TypeError, AttributeError):
        return None


def _as_file(layer: _Layer) -> RemoteFile | None:
    """None of a layer that is not part of the model: code, data sets, readmes."""
    sha256 = layer.digest.removeprefix("sha256:")
    archive = layer.archive
    if archive is not None:
        within = _MODELS if _IMAGE_LAYER.match(layer.media) and layer.title is None else ""
        return RemoteFile(f"{LAYERS}/{sha256}", layer.size, sha256, None, layer.digest, archive, within)
    title = "model.gguf" if layer.media in _GGUF_LAYERS and layer.title is None else layer.title
    if title is None or not is_model_file(PurePosixPath(title).name):
        return None
    return RemoteFile(safe_name(title), layer.size, sha256, None, layer.digest)


def _pick_platform(index: Mapping[str, Any], reference: str) -> str:
    """The digest of an index's manifest for this machine; of those without a platform, the first."""
    import platform

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    said = index.get("manifests")
    found = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    for fits in ({"linux/" + machine}, {"/", "unknown/unknown", ""}):
        for one in found:
            where = one.get("platform") or {}
            name = f"{where.get('os', '')}/{where.get('architecture', '')}" if isinstance(where, dict) else ""
            kind = (one.get("annotations") or {}).get("vnd.docker.reference.type")
            if name in fits and kind is None and _DIGEST.fullmatch(str(one.get("digest"))):
                return str(one["digest"])
    raise ModelNotFoundError(f"{reference} has no image for linux/{machine}")


def _is_plain(registry: str) -> bool:
    plain = [name.strip() for name in os.environ.get("OCTAVO_PLAIN_REGISTRIES", "").split(",")]
    return registry in plain or registry.partition(":")[0] in ("localhost", "127.0.0.1")
