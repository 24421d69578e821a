"""The files of the page at /: what they are, as they are sent."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

FOLDER = Path(__file__).parents[1] / "ui"
PREFIX = "/ui/"  # of every file but the first
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# What a page of this server may load and do: its own files, and requests of this server. Text is never made HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = MappingProxyType(
    {
        "cache-control": "no-cache",  # kept, and asked for again: a newer server has newer files
        "content-security-policy": POLICY,
        "permissions-policy": "microphone=(self), camera=(), geolocation=()",
        "referrer-policy": "no-referrer",
        "vary": "accept-encoding",
        "x-content-type-options": "nosniff",
    }
)


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file: its bytes as they are and compressed, and what they are."""

    media_type: str
    body: bytes
    compressed: bytes
    etag: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """The files by their paths in URLs; / is index.html. They are read once, when somebody asks first."""
    paths = sorted(path for path in FOLDER.iterdir() if path.suffix in TYPES)
    return {"/" if path.name == "index.html" else PREFIX + path.name: _read(path) for path in paths}


def _read(path: Path) -> PageFile:
    body = path.read_bytes()
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:20]}"'
    return PageFile(TYPES[path.suffix], body, gzip.compress(body, 9, mtime=0), etag)


def is_page(method: str, path: str) -> bool:
    """Whether a request asks for one of the files, which are open to everyone."""
    return method in ("GET", "HEAD") and (path == "/" or path.startswith(PREFIX)) and path in page_files()
