"""JSON without what its readers disagree on: repeated names, NaN, bytes that are not UTF-8, deep nesting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

from octavo.errors import one_line


def loads(data: bytes, parse_int: Callable[[str], int] = int) -> Any:
    """The value of `data`. Raises ValueError, whose text is a line that says what is wrong with it."""
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_unique_names, parse_constant=_refuse, parse_int=parse_int)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{one_line(twice, 80)!r} is there twice")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
