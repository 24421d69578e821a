"""Finding marks in text that is still coming."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Marks:
    """Texts to look for: those that are `kept`, and others that are left out of the text."""

    def __init__(self, kept: Iterable[str], left_out: Iterable[str] = ()):
        self.kept = frozenset(kept)
        longest_first = sorted({*self.kept, *left_out}, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._beginnings = {text[:end] for text in longest_first for end in range(1, len(text))}
        self._longest = max(map(len, self._beginnings), default=0)

    def find(self, text: str, start: int) -> re.Match[str] | None:
        return self._pattern.search(text, start)

    def held(self, text: str, start: int) -> int:
        """How many characters at the end may be the beginning of a mark."""
        longest = min(self._longest, len(text) - start)
        return next((n for n in range(longest, 0, -1) if text[-n:] in self._beginnings), 0)
