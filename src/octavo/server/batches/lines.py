"""The lines of a batch file: what they must have, and what is said about those that lack it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from octavo import strict_json

AUDIO = ("/v1/audio/transcriptions", "/v1/audio/translations")
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
URLS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"),
    *("/score", "/v1/score", *RERANK, "/classify", "/pooling", *AUDIO),
)
FIELDS = ("custom_id", "method", "url", "body")
MAX_LINE_BYTES = 32 << 20
MAX_ID = 512  # the most characters of a custom_id


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch; `number` counts the file's lines from 1."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request. `reason` names `param`, the field, where one is to blame."""

    number: int
    custom_id: str | None
    reason: str
    param: str | None = None


def read_lines(path: Path, urls: Collection[str] = URLS) -> Iterator[Line | BadLine]:
    """The requests of a file in their order; empty lines are passed over. Raises OSError."""
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        for number, data in _raw_lines(file):
            if data.strip():
                yield _read_line(number, data, seen, urls)


def _raw_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; of one that is too long only the beginning is ever in memory."""
    number = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        rest = data
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        number += 1
        yield number, data


def _read_line(number: int, data: bytes, seen: dict[str, int], urls: Collection[str]) -> Line | BadLine:
    value, reason = _parse(number, data)
    if reason is not None:
        return BadLine(number, None, reason)
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID:
        wanted = f"must be a text of 1 to {MAX_ID} characters"
        return BadLine(number, None, f"custom_id: {wanted}, got {_short(custom_id)}", "custom_id")
    if found := _reason_to_refuse(value, urls):
        param, reason = found
        return BadLine(number, custom_id, f"{param}: {reason}", param)
    if custom_id in seen:
        reason = f"custom_id: {_short(custom_id)} is that of line {seen[custom_id]} too"
        return BadLine(number, custom_id, reason, "custom_id")
    seen[custom_id] = number
    return Line(number, custom_id, value["url"], value["body"])


def _parse(number: int, data: bytes) -> tuple[dict[str, Any], str | None]:
    """The JSON object of a line, or what is wrong with it."""
    if len(data) > MAX_LINE_BYTES:
        return {}, f"is longer than {MAX_LINE_BYTES} bytes"
    if number == 1:
        data = data.removeprefix(b"\xef\xbb\xbf")  # the mark that some editors put before UTF-8
    try:
        data.decode()
        value = strict_json.loads(data)
    except UnicodeDecodeError as error:
        return {}, f"is not UTF-8: {error.reason} at byte {error.start}"
    except ValueError as error:
        return {}, f"is not JSON: {error}"
    return (value, None) if isinstance(value, dict) else ({}, "must be a JSON object")


def _reason_to_refuse(value: dict[str, Any], urls: Collection[str]) -> tuple[str, str] | None:
    """The field that is wrong with a line, `custom_id` apart, and why."""
    if unknown := sorted(set(value) - set(FIELDS)):
        name = unknown[0][:40].encode(errors="replace").decode()
        return name, f"is not known; a line has {', '.join(FIELDS)}"
    if value.get("method") != "POST":
        return "method", f"must be 'POST', got {_short(value.get('method'))}"
    if value.get("url") not in urls:
        *others, last = urls
        wanted = f"{', '.join(others)} or {last}" if others else last
        return "url", f"must be {wanted}, got {_short(value.get('url'))}"
    body = value.get("body")
    if not isinstance(body, dict):
        return "body", f"must be a JSON object, got {_short(body)}"
    for name in ("stream", "stream_options", "background"):
        if body.get(name):
            return f"body.{name}", "not in a batch, whose answers are whole; leave it out"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
