"""A registry of images on this machine that wants a token, in the manner of the distribution specification."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from http.server import BaseHTTPRequestHandler
from typing import Any

from file_server import FileServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
TITLE = "org.opencontainers.image.title"


class Registry(FileServer):
    """`user` and `password` are asked for, if they are set; a token always."""

    def __init__(self) -> None:
        super().__init__()
        self.url = ""
        self.password: str | None = None
        self.challenge = "Bearer"
        self.once = False  # each token is good for one answer
        self.used: set[str] = set()
        self.tokens = 0
        self.types: dict[str, str] = {}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        said = request.headers.get("Authorization", "")
        good = self.password is None or said == f"Basic {base64.b64encode(self.password.encode()).decode()}"
        if request.path.startswith("/token"):
            if not good:
                return self.say(request, 401)
            self.tokens += 1
            return self.say(request, 200, json.dumps({"token": f"t{self.tokens}"}).encode())
        if self.challenge == "Basic":
            if not good or not said:
                return self.say(request, 401, WWW_Authenticate='Basic realm="r"')
        elif not said.startswith("Bearer t") or (self.once and said in self.used):
            realm = f'Bearer realm="{self.url}/token",service="s",scope="repository:x:pull"'
            return self.say(request, 401, WWW_Authenticate=realm)
        self.used.add(said)
        if "/manifests/" in request.path and (body := self.files.get(request.path)) is not None:
            self.paths.append(request.path)
            return self.say(request, 200, body, Content_Type=self.types[request.path])
        super().answer(request)

    def blob(self, repository: str, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.files[f"/v2/{repository}/blobs/{digest}"] = content
        return {"digest": digest, "size": len(content)}

    def layer(self, repository: str, content: bytes, media: str, title: str | None = None) -> dict[str, Any]:
        annotations = {} if title is None else {"annotations": {TITLE: title}}
        return {"mediaType": media, **self.blob(repository, content), **annotations}

    def manifest(self, repository: str, tag: str, content: dict[str, Any], media: str = MANIFEST) -> str:
        """Stores it under its tag and its digest, and returns the digest."""
        body = json.dumps({"schemaVersion": 2, "mediaType": media, **content}).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for name in (tag, digest):
            self.files[f"/v2/{repository}/manifests/{name}"] = body
            self.types[f"/v2/{repository}/manifests/{name}"] = media
        return digest


def archive(files: dict[str, bytes], links: dict[str, str] | None = None, packed: bool = True) -> bytes:
    """A tar archive, packed by gzip or not."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return gzip.compress(out.getvalue(), mtime=0) if packed else out.getvalue()
