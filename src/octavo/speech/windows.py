"""Windows of audio: how it is cut into them, and where in them the segments of their texts are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.speech import SAMPLE_RATE
from octavo.speech.mel import WINDOW_SAMPLES, WINDOW_SECONDS
from octavo.speech.silence import Span, Splitter

Samples = NDArray[np.float32]


@dataclass(slots=True)
class Window:
    """A part of an audio, `seconds` long, at most 30. `start` counts samples from the beginning of the audio."""

    number: int
    start: int
    samples: Samples

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def split_at_timestamps(ids: list[int], tokens: Any, seconds: float) -> Iterator[tuple[float, float, list[int]]]:
    """(start, end, text tokens) of each segment of a window of `seconds`; of a text without timestamps it is one."""
    start, text = 0.0, list[int]()
    for token in ids:
        time = tokens.timestamp(token)
        if time is None:
            if tokens.is_text(token):
                text.append(token)
        else:
            if text:
                yield start, max(start, time), text
            start, text = time, []
    if text:
        yield start, seconds, text


def next_window(ids: list[int], tokens: Any, seconds: float) -> float:
    """Seconds to the next window: up to where the last whole segment ended, or all if no segment was left open."""
    times = [tokens.timestamp(token) for token in ids if tokens.is_text(token) or tokens.timestamp(token) is not None]
    between = [i for i in range(1, len(times)) if None not in (times[i - 1], times[i])]  # segments: two times in a row
    if not between or (times[-1] is not None and times[-2] is None):
        return seconds
    return float(times[between[-1] - 1]) or seconds


class CutWindows:
    """Windows that end in pauses, and have no silence in them worth hearing."""

    def __init__(self, stream: Iterator[Samples]):
        self._stream, self._splitter = stream, Splitter(WINDOW_SECONDS)
        self._spans = deque[Span]()
        self.position = 0  # samples that windows have been made of
        self.has_ended = False

    def next(self) -> tuple[int, Samples] | None:
        """The next window, if there is one without more than one more chunk."""
        if not self._spans:
            chunk = next(self._stream, None)
            self._spans += self._splitter.finish() if chunk is None else self._splitter.feed(chunk)
            self.has_ended = chunk is None and not self._spans
        if not self._spans:
            return None
        span = self._spans.popleft()
        self.position = span.end
        return span.start, span.samples


class FollowingWindows:
    """Windows that begin where the text of the last one ended."""

    def __init__(self, stream: Iterator[Samples]):
        self._stream = stream
        self._held = np.zeros(0, np.float32)
        self.position = 0
        self.has_ended = False

    def next(self) -> tuple[int, Samples] | None:
        while len(self._held) < WINDOW_SAMPLES and (more := next(self._stream, None)) is not None:
            self._held = np.concatenate([self._held, more])
        window = self._held[:WINDOW_SAMPLES]
        self.has_ended = not len(window)
        return (self.position, window) if len(window) else None

    def advance(self, seconds: float) -> None:
        count = max(1, min(round(seconds * SAMPLE_RATE), len(self._held)))
        self._held = self._held[count:]
        self.position += count
