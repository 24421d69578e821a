"""Cached models on the command line: a table of them, which are meant, and asking before they are removed."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from octavo.cli.parser import UsageError
from octavo.weights.progress import say, size_text

if TYPE_CHECKING:
    from octavo.weights.inventory import Cached

_HEAD = ("model", "source", "size", "files", "used", "")
_AGES = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def as_json(model: Cached) -> dict[str, Any]:
    shown = {"name": model.name, "source": model.source, "path": str(model.path), "size": model.size}
    missing = model.missing if model.missing >= 0 else None
    return shown | {"files": model.files, "used": model.used, "complete": model.complete, "missing": missing}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be; the third is of numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            f"{cell:>{w}}" if i == 2 else f"{cell:<{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def models_table(models: Sequence[Cached]) -> str:
    rows = [_HEAD]
    for one in models:
        much = "" if one.missing < 0 else f", {size_text(one.missing)} are missing"
        state = "" if one.complete else f"unfinished{much}"
        rows.append((one.name, one.source, size_text(one.size), str(one.files), _ago(one.used), state))
    return f"{table(rows)}\n{count_text(models)}, {size_text(sum(one.size for one in models))}"


def count_text(models: Sequence[Cached]) -> str:
    return "1 model" if len(models) == 1 else f"{len(models)} models"


def choose(models: Sequence[Cached], name: str) -> list[Cached]:
    """The model that a name or a part of one means, with what is unfinished of it. Raises UsageError."""
    found = [one for one in models if name in (one.name, str(one.path))]
    found = found or [one for one in models if name.lower() in one.name.lower()]
    names = sorted({one.name for one in found})
    if not names:
        raise UsageError(f"--remove {name}: no cached model is called so; octavo pull --list has those that are")
    if len(names) > 1:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise UsageError(f"--remove {name} may mean {', '.join(names[:8])}{more}: give one of them whole")
    return found


def remove_all(models: Sequence[Cached], flag: str, *, yes: bool) -> int:
    """Removes them, after asking unless `yes`; the exit code.

    Raises UsageError, which begins with the `flag` that was typed, if there is nobody to ask.
    """
    from octavo.weights.inventory import remove

    total = size_text(sum(one.size for one in models))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{flag}: {count_text(models)} of {total} would be removed; --yes does so without asking")
        print(models_table(models), file=sys.stderr)
        print(f"Remove {total}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was removed")
            return 1
    kept = [one for one in models if not remove(one)]
    for one in kept:
        say(f"{one.name} was not removed: a running process uses or fetches it")
    done = [one for one in models if one not in kept]
    names = ", ".join(sorted({one.name for one in done})) or "nothing"
    print(f"removed {names}: {size_text(sum(one.size for one in done))}")
    return 1 if kept else 0


def age(text: str) -> float:
    """Seconds: 90m, 12h, 30d, 2w."""
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be an age, as 12h, 30d or 2w, got {text!r}")
    return float(match[1]) * _AGES[match[2]]


def _ago(used: float) -> str:
    seconds = max(0.0, time.time() - used)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "now"
