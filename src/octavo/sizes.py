"""Sizes in bytes as people write them."""

from __future__ import annotations

import re
from typing import Any

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DECIMAL = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def read_size(value: Any) -> int:
    """Bytes: an integer, or a text such as 20GiB or 20G (2^30 each), 20GB (10^9 each), 1.5TiB, 500MiB.

    Raises ValueError, which says what would be right.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([KMGT]?)(i?B)?", value) if isinstance(value, str) else None
    if match is None or (match[3] == "iB" and not match[2]):
        raise ValueError("must be a number of bytes, or a size such as 20GiB, 500MiB or 20GB")
    units = _DECIMAL if match[3] == "B" and match[2] else _UNITS
    return int(float(match[1]) * units[match[2]])
