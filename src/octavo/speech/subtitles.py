"""Segments of text with times, written as SubRip (srt) and WebVTT (vtt).

The text is a model's: whatever it says, it ends no cue and begins none.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Cue(NamedTuple):
    """Text that was spoken from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


def srt(segments: Iterable[Cue]) -> str:
    """A file of SubRip: numbered cues, times as 00:00:01,500. Segments without text are left out.

    Raises ValueError for a time that is negative or no number.
    """
    cues = enumerate(_cues(segments, decimal=","), 1)
    # SubRip has no escapes, so the arrow of a timing line is shortened where it is in the text.
    return "".join(f"{number}\n{timing}\n{re.sub('--+>', '->', text)}\n\n" for number, (timing, text) in cues)


def vtt(segments: Iterable[Cue]) -> str:
    """A file of WebVTT: cues, times as 00:00:01.500. Segments without text are left out.

    Raises ValueError for a time that is negative or no number.
    """
    cues = _cues(segments, decimal=".")
    return "WEBVTT\n\n" + "".join(f"{timing}\n{html.escape(text, quote=False)}\n\n" for timing, text in cues)


def _cues(segments: Iterable[Cue], decimal: str) -> Iterator[tuple[str, str]]:
    """(timing line, text without empty lines) of each segment that has text."""
    for start, end, text in segments:
        lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
        if not lines:
            continue
        first = _milliseconds(start)
        last = max(_milliseconds(end), first + 1)  # a cue must last
        yield f"{_clock(first, decimal)} --> {_clock(last, decimal)}", "\n".join(lines)


def _milliseconds(seconds: float) -> int:
    if not (0 <= seconds < math.inf):
        raise ValueError(f"a segment's time must be seconds from 0 on, got {seconds}")
    return round(seconds * 1000)


def _clock(milliseconds: int, decimal: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{decimal}{rest:03}"
