"""Requests over HTTP that distinguish what is final from what may pass. The standard library's client does them.

Proxies come from HTTPS_PROXY and its like, further authorities from SSL_CERT_FILE, as for other programs.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from octavo.errors import ModelNotFoundError, one_line
from octavo.version import __version__
from octavo.weights.sources.base import CHUNK, UnavailableError

Response = http.client.HTTPResponse
T = TypeVar("T")

READ_TIMEOUT = 30.0  # seconds without a byte
TRIES = 5
_LONGEST_WAIT = 30.0  # seconds, whatever the other side asks for
_MAX_REDIRECTS = 5
_MAX_JSON = 32 << 20
_MAY_PASS = {408, 421, 425, 429, 500, 502, 503, 504}


class StatusError(Exception):
    """An answer that says no, and would do so again."""

    def __init__(self, status: int, url: str, headers: Message):
        super().__init__(f"{shown(url)} answered with status {status}")
        self.status, self.url, self.headers = status, url, headers


@contextmanager
def final(what: str, advice: str = "") -> Iterator[None]:
    """Makes one line of an answer that says no, with what to do if it wants to know who asks."""
    try:
        yield
    except StatusError as error:
        if error.status in (401, 403):
            raise ModelNotFoundError(f"{what}: access is denied (status {error.status}){advice}") from None
        if error.status in (404, 410):
            raise ModelNotFoundError(f"{what} does not exist (status {error.status})") from None
        raise ModelNotFoundError(f"{what}: {error}") from None


def shown(url: str) -> str:
    """A URL without what may be secret: a password, a signature."""
    parts = urlsplit(url)
    return one_line(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Few of them, never from https to http; what authorizes stays with the host that it is for."""

    max_redirections = _MAX_REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if before.scheme == "https" and after.scheme != "https":
            raise ModelNotFoundError(f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not encrypted")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            request.headers = {k: v for k, v in request.headers.items() if k.lower() not in ("authorization", "cookie")}
        return request


@cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects, urllib.request.HTTPSHandler(context=_tls()))


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()  # of a folder, certificates are loaded when they are needed
    if not paths.cafile and not (paths.capath and any(Path(paths.capath).glob("*"))):
        try:  # a system without authorities of its own, as a small image is
            import certifi

            context.load_verify_locations(certifi.where())
        except ImportError:
            pass
    return context


@contextmanager
def request(
    url: str, headers: Mapping[str, str] | None = None, *, timeout: float, data: bytes | None = None
) -> Iterator[Response]:
    """The answer to a GET, or to a POST of `data`. Raises StatusError, UnavailableError, ModelNotFoundError."""
    asked = urllib.request.Request(url, data, {"User-Agent": f"octavo/{__version__}", **(headers or {})})
    with network(url):
        try:
            response = _opener().open(asked, timeout=timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _MAY_PASS:
                raise UnavailableError(f"{shown(url)} answered with status {error.code}", _wait(error)) from None
            if error.code in (301, 302, 303, 307, 308):
                raise ModelNotFoundError(f"{shown(url)} redirects more than {_MAX_REDIRECTS} times") from None
            raise StatusError(error.code, url, error.headers) from None
    with failures(url), response:
        yield response


@contextmanager
def network(url: str) -> Iterator[None]:
    """As `failures`, for what does nothing but ask or read: there, any OSError is one of the network, as no route."""
    try:
        with failures(url):
            yield
    except OSError as error:
        raise UnavailableError(f"{shown(url)}: {error.strerror or error}") from None


@contextmanager
def failures(url: str) -> Iterator[None]:
    """Failures of the network become UnavailableErrors; a certificate that nobody vouches for stays one."""
    try:
        yield
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            reason = one_line(error.reason.verify_message)
            raise ModelNotFoundError(
                f"{shown(url)}: the certificate is not trusted ({reason}); SSL_CERT_FILE names a file of authorities"
            ) from None
        raise UnavailableError(f"{shown(url)}: {error.reason}") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError, EOFError) as error:
        raise UnavailableError(f"{shown(url)}: {str(error) or type(error).__name__}") from None


def get_json(url: str, headers: Mapping[str, str] | None = None, *, timeout: float) -> Any:
    """An answer that is JSON. Raises as `request`, and ModelNotFoundError if it is none."""
    with request(url, headers, timeout=timeout) as response, network(url):
        body = response.read(_MAX_JSON + 1)
    return parse_json(body, url)


def parse_json(body: bytes, url: str) -> Any:
    try:
        if len(body) > _MAX_JSON:
            raise ValueError("it is too long")
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ModelNotFoundError(f"{shown(url)} answers with what is no JSON: {one_line(str(error))}") from None


@contextmanager
def open_range(
    url: str, start: int, headers: Mapping[str, str], version: str | None
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The bytes of a URL from `start`, or from 0 if it has changed or knows no ranges. Raises as `request`.

    `version` is its ETag or date as it was when it was first asked for.
    """
    asked = dict(headers)
    asked["Accept-Encoding"] = "identity"
    if start:
        asked["Range"] = f"bytes={start}-"
        if version:
            asked["If-Range"] = version
    try:
        with request(url, asked, timeout=READ_TIMEOUT) as response:
            begin = start if response.status == 206 else 0
            said = response.headers.get("Content-Range", "")
            if response.status == 206 and not said.startswith(f"bytes {start}-"):
                raise UnavailableError(f"{shown(url)} answers with another range: {said!r}")
            yield begin, _chunks(response, url)
    except StatusError as error:
        if error.status != 416 or not start:
            raise
        with open_range(url, 0, headers, None) as again:  # shorter than it was
            yield again


def _chunks(response: Response, url: str) -> Iterator[bytes]:
    while True:
        with network(url):
            chunk = response.read1(CHUNK)
        if not chunk:
            break
        yield chunk
    if response.length:  # what was announced and did not come
        raise http.client.IncompleteRead(b"", response.length)


def retrying(action: Callable[[], T], tries: int = TRIES, sleep: Callable[[float], Any] = time.sleep) -> T:
    """What `action` returns, tried again while it raises UnavailableError, ever later."""
    for i in range(tries):
        try:
            return action()
        except UnavailableError as error:
            if i == tries - 1:
                raise
            sleep(pause(i, error))
    raise AssertionError("unreachable")


def pause(i: int, error: UnavailableError) -> float:
    """Seconds before try i + 1."""
    return min(max(0.25 * float(2**i), error.wait), _LONGEST_WAIT)


def _wait(error: urllib.error.HTTPError) -> float:
    said = error.headers.get("Retry-After", "")
    return float(said) if said.isdecimal() and len(said) < 9 else 0.0
