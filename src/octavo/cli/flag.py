"""A command-line flag as data, and how its text becomes a value."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

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
    match = re.fullmatch(r"(\d+)([kKmMgG]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a number, as 4096, 4k (4000) or 4K (4096), got {text!r}")
    return (
        int(match[1])
        * {"": 1, "k": 1000, "K": 1 << 10, "m": 1_000_000, "M": 1 << 20, "g": 10**9, "G": 1 << 30}[match[2]]
    )


def literal(text: str) -> Any:
    """A number or JSON where `text` is that, else `text`: for options that are only compared."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def names(text: str) -> tuple[str, ...]:
    """A JSON list of strings, as vLLM writes it, or strings between commas."""
    value = literal(text)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return tuple(item.strip() for item in text.split(",") if item.strip())


def as_flag(name: str) -> str:
    return "--" + name.replace("_", "-")
