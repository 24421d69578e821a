"""Models at a URL: a .gguf file with its parts, or the config.json of a folder, whose other files have known names."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from netrc import NetrcParseError, netrc
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from octavo.errors import ModelNotFoundError, one_line
from octavo.weights.selection import Selection, parts_of
from octavo.weights.sources.base import RemoteFile, Source, safe_name
from octavo.weights.sources.http import StatusError, final, get_json, open_range, request, shown

# What the folder of a model may have beside config.json and what the index of its weights names.
_WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "model.bin")
_OTHERS = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocabulary.json", "vocabulary.txt",
    "merges.txt", "added_tokens.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip
_KEPT = "%/:?=&@!$'()*+,;~[]"  # characters of a URL, beside letters and digits, that mean themselves
_ADVICE = "; a user and password can be in the URL (https://USER:PASSWORD@…) or in ~/.netrc"


def open_source(reference: str, revision: str | None) -> Source:
    """Raises ModelNotFoundError if the URL names no model."""
    url, _, fragment = reference.partition("#")
    try:
        url = _spell(url)
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise ModelNotFoundError(f"{one_line(reference)} is not a URL")
    name = unquote(parts.path.rpartition("/")[2])
    if not (name.endswith(".gguf") or name == "config.json"):
        raise ModelNotFoundError(
            f"{shown(url)} is neither the URL of a .gguf file nor of a model's config.json, beside which its files are"
        )
    sha256 = None
    if fragment:
        match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
        if match is None or name == "config.json" or len(parts_of(name)) > 1:
            raise ModelNotFoundError(
                f"{shown(url)}: after # only sha256= and 64 hexadecimal digits may stand, of a lone .gguf file"
            )
        sha256 = match[1].lower()
    return WebModel(url, safe_name(name), sha256)


def _spell(url: str) -> str:
    """The URL in ASCII, as requests have it; what is escaped stays so. Raises ValueError."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not host.isascii():
        name, colon, port = host.partition(":")
        host = f"{name.encode('idna').decode()}{colon}{port}"
    netloc, path, query = (quote(user, safe=_KEPT) + at + host, *(quote(one, safe=_KEPT) for one in parts[2:4]))
    return urlunsplit((parts.scheme, netloc, path, query, ""))


class WebModel(Source):
    def __init__(self, url: str, name: str, sha256: str | None):
        self.reference = shown(url)
        self._url, self._name, self._sha256 = urlsplit(url), name, sha256
        self.pinned = sha256 is not None
        self.selection = Selection(self.reference, name if name.endswith(".gguf") else None)

    @property
    def identity(self) -> str:
        """Without the query, as a signature in it is another one each day."""
        return self.reference + (f"#{self._sha256}" if self._sha256 else "")

    def list_files(self, timeout: float) -> list[RemoteFile]:
        if self._name.endswith(".gguf"):
            return [self._describe(name, timeout) for name in parts_of(self._name)]
        found = [self._describe("config.json", timeout), *self._weights(timeout)]
        for name in _OTHERS:
            with suppress(StatusError):
                found.append(self._ask(name, timeout))
        return found

    @contextmanager
    def open(self, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        with final(shown(file.place), _ADVICE), open_range(file.place, start, self._headers(), file.version) as opened:
            yield opened

    def _weights(self, timeout: float) -> list[RemoteFile]:
        for name in _WEIGHTS:
            with suppress(StatusError):
                found = self._ask(name, timeout)
                return [found, *(self._describe(shard, timeout) for shard in self._shards(found, timeout))]
        raise ModelNotFoundError(f"{self.reference} has none of {', '.join(_WEIGHTS)} beside it")

    def _shards(self, index: RemoteFile, timeout: float) -> list[str]:
        """The files that an index of weights names; none if it is the weights."""
        if not index.name.endswith(".index.json"):
            return []
        said = get_json(index.place, self._headers(), timeout=timeout)
        shards = said.get("weight_map") if isinstance(said, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelNotFoundError(f"{shown(index.place)} has no weight_map")
        return sorted({safe_name(name) for name in shards.values()})

    def _describe(self, name: str, timeout: float) -> RemoteFile:
        """A file that must be there."""
        with final(shown(self._place(name)), _ADVICE):
            return self._ask(name, timeout)

    def _ask(self, name: str, timeout: float) -> RemoteFile:
        """One byte is asked for, as not all servers and signatures allow HEAD. Raises StatusError."""
        url = self._place(name)
        headers = {**self._headers(), "Range": "bytes=0-0", "Accept-Encoding": "identity"}
        try:
            with request(url, headers, timeout=timeout) as answer:
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                size = total if answer.status == 206 else answer.headers.get("Content-Length", "")
                etag = answer.headers.get("ETag", "")
                version = etag if etag.startswith('"') else answer.headers.get("Last-Modified")
        except StatusError as error:
            if error.status != 416:
                raise
            return RemoteFile(name, 0, None, None, url)  # an empty file
        sha256 = self._sha256 if name == self._name else None
        return RemoteFile(name, int(size) if size.isdecimal() else None, sha256, version, url)

    def _place(self, name: str) -> str:
        """The URL of a file, without a user's name in it."""
        path = self._url.path if name == self._name else f"{self._url.path.rpartition('/')[0]}/{quote(name)}"
        return urlunsplit((self._url.scheme, self._url.netloc.rpartition("@")[2], path, self._url.query, ""))

    def _headers(self) -> dict[str, str]:
        """Who asks: the user and password in the URL, or else those in ~/.netrc."""
        user, password = unquote(self._url.username or ""), unquote(self._url.password or "")
        if not user:
            with suppress(OSError, NetrcParseError):
                user, _, password = netrc().authenticators(self._url.hostname or "") or ("", "", "")
        if not user:
            return {}
        return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
