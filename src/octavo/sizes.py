"""Sizes in bytes as people write them."""

from __future__ import annotations

import re
from typing import Any

_FORM = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?:([kmgt])(i?b)?|b)?\s*", re.IGNORECASE)


def read_size(value: Any) -> int:
    """Bytes: an integer, or a text such as 20GiB or 20G (2^30 each), 20GB or 20g (10^9 each), 1.5TiB, 500MiB.

    Raises ValueError, which says what would be right.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a number of bytes, or a size such as 20GiB, 500MiB or 20GB")
    number, unit, ending = float(match[1]), match[2] or "", (match[3] or "").lower()
    is_binary = ending == "ib" if ending else unit.isupper()
    return int(number * (1024 if is_binary else 1000) ** ("kmgt".index(unit.lower()) + 1 if unit else 0))
