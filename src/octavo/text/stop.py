"""Finds stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.errors import ParameterError


class StopStrings:
    """Cuts a stream of text at the first stop string, wherever the borders of its pieces are.

    The first stop string is the one that is complete first; of those that end together, the first in the
    list. Without `include_in_output` the text ends before it, so text that may turn out to be the start of
    one is held back: the longest suffix that is a prefix of a stop string. With it the text ends after it,
    and nothing is held back. Raises ParameterError for a stop string that is empty or no string.
    """

    def __init__(self, stops: Sequence[str], include_in_output: bool = False):
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise ParameterError("stop", stops, "non-empty strings")
        self._searches = [_Search(stop) for stop in stops]
        self._include = include_in_output
        self._held = ""
        self.matched: str | None = None

    def append(self, new_text: str) -> tuple[str, str | None]:
        """(text that is now final, the stop string that it completed, if any). After a stop, text is dropped."""
        if self.matched is not None:
            return "", self.matched
        for end, char in enumerate(new_text, 1):
            # Every search advances, also past a match: they all belong to the same position of the text.
            complete = [search.stop for search in self._searches if search.advance(char)]
            if complete:
                self.matched = complete[0]
                seen, self._held = self._held + new_text[:end], ""
                return (seen if self._include else seen[: -len(self.matched)]), self.matched
        seen = self._held + new_text
        num_held = 0 if self._include else max((search.length for search in self._searches), default=0)
        self._held = seen[len(seen) - num_held :]
        return seen[: len(seen) - num_held], None

    def flush(self) -> str:
        """The text that was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


class _Search:
    """Knuth-Morris-Pratt: `length` is the longest suffix of the text so far that is a prefix of `stop`."""

    __slots__ = ("fallback", "length", "stop")

    def __init__(self, stop: str):
        self.stop = stop
        self.length = 0
        self.fallback = [0, 0]  # by length: the longest proper suffix of stop[:length] that is a prefix, too
        shorter = 0
        for char in stop[1:]:
            while shorter and char != stop[shorter]:
                shorter = self.fallback[shorter]
            shorter += char == stop[shorter]
            self.fallback.append(shorter)

    def advance(self, char: str) -> bool:
        """Whether `char` completes the stop string."""
        length, stop = self.length, self.stop
        while length and char != stop[length]:
            length = self.fallback[length]
        if char == stop[length]:
            length += 1
        self.length = length
        return length == len(stop)
