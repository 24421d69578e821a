"""Regexes of JSON schemas, so changed that llguidance takes them no more loosely than they are meant.

- White space of ECMA 262 has U+FEFF, that of Rust's regex has not.
- In the JSON of a string, characters have escapes. llguidance allows all of these, that of the quotation mark too, for
  a class with all control characters, whatever else is in it. So no class has NUL here, which is never written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_NUL = re.compile(r"\x00|\\(x00|u0000|U0{8}|[xuU]\{0+\})")
_PART = re.compile(r"\\[pP](\{[^}]*\}|.)|\\.|[^\\]", re.S)


def strict_pattern(pattern: str) -> str:
    """The pattern to be given to llguidance. Raises ValueError where it has NUL outside of classes."""
    return "".join(_parts(pattern))


def _parts(pattern: str) -> Iterator[str]:
    place = 0
    while place < len(pattern):
        end = _class_end(pattern, place) if pattern[place] == "[" else None
        if end is not None:
            yield _without_nul(_with_bom(pattern[place:end]))
        else:
            if _NUL.match(pattern, place):
                raise ValueError("has the character NUL, which is not written")
            found = _PART.match(pattern, place)
            end = len(pattern) if found is None else found.end()
            part = pattern[place:end]
            yield _without_nul(f"[{part}]") if part[:2] in (r"\p", r"\P") else _with_bom(part)
        place = end


def _class_end(pattern: str, place: int) -> int | None:
    """Where the class that begins at `place` ends; None if it doesn't."""
    depth, first = 0, False
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            place += 1
        elif char == "[":
            depth += 1
            place += pattern.startswith("^", place + 1)
            first = True
            place += 1
            continue
        elif char == "]" and not first:
            depth -= 1
            if depth == 0:
                return place + 1
        first = False
        place += 1
    return None


def _without_nul(of_class: str) -> str:
    return rf"[{of_class}--[\x00]]"


def _with_bom(part: str) -> str:
    return re.sub(r"\\(.)", lambda found: r"[^\s\uFEFF]" if found[1] == "S" else found[0], part, flags=re.S)
