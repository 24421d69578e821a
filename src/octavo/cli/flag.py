"""A command-line flag as data, and how its text becomes a value."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from octavo.options import literal
from octavo.sizes import read_size

Convert = Callable[[str], Any]


class Flag(NamedTuple):
    """`name` is the option's; the flag has dashes. A `convert` of None makes --flag and --no-flag."""

    name: str
    convert: Convert | None
    metavar: str | None
    help: str
    repeat: bool = False


def count(text: str) -> int:
    """A number of tokens or bytes: 4096, or 4k (thousands), or 4K (1024s), as vLLM reads them."""
    match = re.fullmatch(r"([0-9]{1,18})([kKmMgG]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a number, as 4096, 4k (4000) or 4K (4096), got {text!r}")
    scales = {"": 1, "k": 10**3, "K": 1 << 10, "m": 10**6, "M": 1 << 20, "g": 10**9, "G": 1 << 30}
    return int(match[1]) * scales[match[2]]


def memory(text: str) -> int:
    """Bytes, as `read_size` reads them: 24GiB, 24GB, or a number."""
    try:
        return read_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text!r}") from None


def positive(text: str) -> int:
    return _between(text, 1)


def natural(text: str) -> int:
    return _between(text, 0)


def _between(text: str, low: int) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text[:20]) < low:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {low}, got {text!r}")
    if len(text) > 9:
        raise argparse.ArgumentTypeError(f"must be an integer below 10^9, got {text!r}")
    return int(text)


def mapping(text: str) -> dict[str, Any]:
    value = literal(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")
    return value


def names(text: str) -> tuple[str, ...]:
    """A JSON list of strings, as vLLM writes it, or strings between commas."""
    value = literal(text) if text.lstrip().startswith("[") else [item.strip() for item in text.split(",")]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise argparse.ArgumentTypeError(f'must be like a,b or ["a", "b"], got {text!r}')
    return tuple(value)


def as_flag(name: str) -> str:
    return "--" + name.replace("_", "-")
