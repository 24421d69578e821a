"""When somebody begins to speak and when they have ended, in audio that comes as it is spoken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.speech.silence import (
    ALWAYS_SPEECH,
    MIN_SPEECH_FRAMES,
    NEVER_SPEECH,
    NOISE_PERCENTILE,
    SPEECH_OVER_NOISE,
    frame_levels,
)

FRAMES_PER_SECOND = 50
NOISE_FRAMES = 10 * FRAMES_PER_SECOND  # the noise is that of the last seconds
NOISE_EVERY = 5  # frames between two looks at the noise
ONSET_FRAMES = 2 * MIN_SPEECH_FRAMES  # speech has begun when half of the last so many frames are speech
THRESHOLD_DB = 24.0  # between the thresholds 0 and 1


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where speech `begins`, or where a pause after it is long enough; `at` counts samples from the first one."""

    begins: bool
    at: int


class TurnDetector:
    """Finds turns by the levels of frames of 20 ms, as `Splitter` finds spans.

    `rate` is in samples per second. `threshold` is 0 to 1: 0.5 takes for speech what `Splitter` does, more needs it to
    be louder. A pause of `silence_seconds` ends a turn.
    """

    def __init__(self, rate: int, threshold: float = 0.5, silence_seconds: float = 0.5):
        self._frame = rate // FRAMES_PER_SECOND
        self._louder = (threshold - 0.5) * THRESHOLD_DB
        self._pause = max(1, round(silence_seconds * FRAMES_PER_SECOND))
        self._rest = np.zeros(0, np.float32)  # less than a frame
        self._levels: deque[float] = deque(maxlen=NOISE_FRAMES)
        self._onset: deque[bool] = deque(maxlen=ONSET_FRAMES)
        self._least = 0.0  # dB: what is above is speech
        self._num_frames = 0
        self._num_silent = 0  # frames since the last one of speech
        self.is_speaking = False

    def feed(self, samples: NDArray[np.float32]) -> Iterator[Boundary]:
        """The boundaries in what has come with `samples`, float32 [n], mono. It is to be read to its end."""
        held = np.concatenate([self._rest, samples])
        whole = len(held) // self._frame * self._frame
        self._rest = held[whole:]
        for level in frame_levels(held[:whole], self._frame):
            self._hear(float(level))
            if (boundary := self._boundary()) is not None:
                yield boundary

    def end_turn(self) -> None:
        """What comes next may begin a turn."""
        self.is_speaking = False
        self._onset.clear()

    def _hear(self, level: float) -> None:
        self._levels.append(level)
        if self._num_frames % NOISE_EVERY == 0:
            noise = float(np.percentile(self._levels, NOISE_PERCENTILE))
            self._least = min(max(noise + SPEECH_OVER_NOISE, NEVER_SPEECH), ALWAYS_SPEECH) + self._louder
        is_speech = level > self._least
        self._num_frames += 1
        self._onset.append(is_speech)
        self._num_silent = 0 if is_speech else self._num_silent + 1

    def _boundary(self) -> Boundary | None:
        if not self.is_speaking and sum(self._onset) >= MIN_SPEECH_FRAMES:
            self.is_speaking = True
            first = self._num_frames - len(self._onset) + self._onset.index(True)
            return Boundary(True, first * self._frame)
        if self.is_speaking and self._num_silent >= self._pause:
            self.end_turn()
            return Boundary(False, self._num_frames * self._frame)
        return None
