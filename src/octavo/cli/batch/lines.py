"""The lines of a batch file: what they must have, and what is said about those that lack it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.client.api import CHAT, COMPLETIONS, EMBEDDINGS

RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
URLS = (CHAT, COMPLETIONS, EMBEDDINGS, "/score", "/v1/score", *RERANK, "/classify", "/pooling")
FIELDS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch; `number` counts the file's lines from 1."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request. `reason` names the field."""

    number: int
    custom_id: str | None
    reason: str


def read_lines(path: Path) -> Iterator[Line | BadLine]:
    """The requests of a file in their order; empty lines are passed over. Raises OSError."""
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if data.strip():
                yield _read_line(number, data, seen)


def _read_line(number: int, data: bytes, seen: dict[str, int]) -> Line | BadLine:
    try:
        value = json.loads(data.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return BadLine(number, None, f"is not UTF-8: {error.reason} at byte {error.start}")
    except ValueError as error:
        return BadLine(number, None, f"is not JSON: {error}")
    except RecursionError:
        return BadLine(number, None, "is JSON of too many levels")
    if not isinstance(value, dict):
        return BadLine(number, None, "must be a JSON object")
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return BadLine(number, None, f"custom_id: must be a text, got {_short(custom_id)}")
    reason = _reason_to_refuse(value)
    if reason is None and custom_id in seen:
        reason = f"custom_id: {_short(custom_id)} is that of line {seen[custom_id]} too"
    if reason is not None:
        return BadLine(number, custom_id, reason)
    seen[custom_id] = number
    return Line(number, custom_id, value["url"], value["body"])


def _reason_to_refuse(value: dict[str, Any]) -> str | None:
    """What is wrong with a line's fields, `custom_id` apart."""
    if unknown := sorted(set(value) - set(FIELDS)):
        return f"{unknown[0][:40]}: is not known; a line has {', '.join(FIELDS)}"
    if value.get("method") != "POST":
        return f"method: must be 'POST', got {_short(value.get('method'))}"
    if value.get("url") not in URLS:
        return f"url: must be {', '.join(URLS[:-1])} or {URLS[-1]}, got {_short(value.get('url'))}"
    body = value.get("body")
    if not isinstance(body, dict):
        return f"body: must be a JSON object, got {_short(body)}"
    for name in ("stream", "stream_options"):
        if body.get(name):
            return f"body.{name}: a batch is not streamed; leave it out"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
