"""Long audio into spans that fit a model's window, cut where nobody speaks; silence is left out.

Levels of frames of 20 ms are all there is to it. A frame may be speech if it is clearly louder than the noise of its
window, and nothing is called silence that could be speech: doubtful sounds are for the model to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.speech import SAMPLE_RATE

FRAME_SAMPLES = SAMPLE_RATE // 50
NOISE_PERCENTILE = 10  # the noise of a window is the level that this part of its frames stays below
SPEECH_OVER_NOISE = 6.0  # dB
NEVER_SPEECH = -60.0  # dB of full scale: however silent the noise is, nothing below this is speech
ALWAYS_SPEECH = -35.0  # and however loud it is, everything above this may be
MIN_SPEECH_FRAMES = 5  # less of it in a whole window is a click
PADDING_FRAMES = 15  # kept before the first and after the last speech of a span
MIN_PAUSE_FRAMES = 10  # shorter ones are inside words
SEARCHED_PART = 0.5  # of a window, at its end, where it may be cut


@dataclass(frozen=True)
class Span:
    """A piece of audio that may hold speech: `samples` are float32 [n], `start` is where the first one was."""

    start: int
    samples: NDArray[np.float32]

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


class Splitter:
    """Cuts audio that comes in chunks into spans of at most `max_seconds` (at least 1).

    A span begins and ends with a short padding around its speech. Where speech goes on for longer than a window, it is
    cut in the middle of the longest pause in the window's second half, or at its quietest spot if there is no pause.
    Spans do not depend on how the audio was cut into chunks. Memory holds one window and one chunk.
    """

    def __init__(self, max_seconds: float = 30.0):
        if not 1 <= max_seconds <= 3600:
            raise ValueError(f"max_seconds must be 1 to 3600, got {max_seconds}")
        self._max_samples = int(max_seconds * SAMPLE_RATE) // FRAME_SAMPLES * FRAME_SAMPLES
        self._chunks: list[NDArray[np.float32]] = []
        self._num_held = 0
        self._position = 0

    def feed(self, samples: NDArray[np.float32]) -> list[Span]:
        """The spans that are complete now that `samples`, float32 [n], mono, 16 kHz and finite, have come."""
        self._chunks.append(samples)
        self._num_held += len(samples)
        return list(self._spans(is_end=False))

    def finish(self) -> list[Span]:
        """The spans of what is left when no more comes."""
        return list(self._spans(is_end=True))

    def _spans(self, is_end: bool) -> Iterator[Span]:
        while self._num_held > self._max_samples or (is_end and self._num_held > 0):
            window = self._window()
            is_rest = len(window) == self._num_held
            levels = frame_levels(window)
            speech = speech_frames(levels)
            if speech.sum() < MIN_SPEECH_FRAMES:  # but the next word may have begun
                self._drop(len(window) - (0 if is_rest else PADDING_FRAMES * FRAME_SAMPLES))
                continue
            if (silent := int(np.argmax(speech)) - PADDING_FRAMES) > 0:  # more of what follows fits
                self._drop(silent * FRAME_SAMPLES)
                continue
            num_frames = len(levels) if is_rest else _find_cut(levels, speech)
            last = int(np.flatnonzero(speech[:num_frames])[-1])
            end = min(num_frames, last + 1 + PADDING_FRAMES) * FRAME_SAMPLES
            yield Span(self._position, window[:end].copy())
            self._drop(min(num_frames * FRAME_SAMPLES, len(window)))

    def _window(self) -> NDArray[np.float32]:
        if len(self._chunks) > 1:
            self._chunks = [np.concatenate(self._chunks)]
        return self._chunks[0][: self._max_samples]

    def _drop(self, count: int) -> None:
        self._chunks = [self._chunks[0][count:]]
        self._num_held -= count
        self._position += count


def split(samples: NDArray[np.float32], max_seconds: float = 30.0) -> list[tuple[int, int]]:
    """(first sample, sample after the last) of each span of `samples`, float32 [n], as `Splitter` cuts them."""
    splitter = Splitter(max_seconds)
    return [(span.start, span.end) for span in [*splitter.feed(samples), *splitter.finish()]]


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Whether nothing in `samples`, float32 [n], could be speech: silence, steady noise that is not loud, a click."""
    return int(speech_frames(frame_levels(samples)).sum()) < MIN_SPEECH_FRAMES


def frame_levels(samples: NDArray[np.float32], frame_samples: int = FRAME_SAMPLES) -> NDArray[np.float64]:
    """Root mean square of each frame of 20 ms in dB of full scale, at least -120; the last frame may be shorter."""
    starts = np.arange(0, len(samples), frame_samples)
    if len(starts) == 0:
        return np.zeros(0)
    sums = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    counts = np.minimum(frame_samples, len(samples) - starts)
    return 10 * np.log10(np.maximum(sums / counts, 1e-12))


def speech_frames(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which frames of a window may be speech, judged by the noise in it."""
    if len(levels) == 0:
        return np.zeros(0, bool)
    noise = float(np.percentile(levels, NOISE_PERCENTILE))
    return levels > min(max(noise + SPEECH_OVER_NOISE, NEVER_SPEECH), ALWAYS_SPEECH)


def _find_cut(levels: NDArray[np.float64], speech: NDArray[np.bool_]) -> int:
    """How many frames of a full window are before the cut."""
    searched = int(len(levels) * (1 - SEARCHED_PART))
    # Borders of the pauses: where a frame differs from the one before, with speech around all.
    borders = np.flatnonzero(np.diff(np.concatenate([[True], speech[searched:], [True]])))
    starts, ends = borders[::2], borders[1::2]
    if len(starts) and (ends - starts).max() >= MIN_PAUSE_FRAMES:
        longest = int(np.argmax(ends - starts))
        return searched + int(starts[longest] + ends[longest]) // 2
    smooth = np.convolve(levels[searched:], np.full(MIN_PAUSE_FRAMES, 1 / MIN_PAUSE_FRAMES), "valid")
    latest_quietest = len(smooth) - 1 - int(np.argmin(smooth[::-1]))
    return searched + latest_quietest + MIN_PAUSE_FRAMES // 2
