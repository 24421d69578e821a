"""What a client has said and not committed yet, and what becomes of it."""

from __future__ import annotations

import base64
import binascii
import io
import wave
from collections.abc import Iterator
from typing import IO

import numpy as np

from octavo.server.errors import HttpError
from octavo.server.protocol.realtime import AudioInput
from octavo.speech.turns import Boundary, TurnDetector

SAMPLE_BYTES = 2


class Recording:
    """Committed audio, as a file for `Transcribing`. `seconds` is its length."""

    def __init__(self, pcm: bytes, rate: int):
        self.seconds = len(pcm) / SAMPLE_BYTES / rate
        self.file: IO[bytes] = io.BytesIO()
        with wave.open(self.file, "wb") as header:
            header.setparams((1, SAMPLE_BYTES, rate, 0, "NONE", "not compressed"))
            header.writeframes(pcm)
        self.file.seek(0)

    def close(self) -> None:
        self.file.close()


class AudioBuffer:
    """16-bit samples of one channel, as they come. Silence is dropped while turns are detected, but for a padding."""

    def __init__(self, settings: AudioInput, start: int = 0):
        """`start` is the number of samples of the session that came before."""
        self.rate, self._turns = settings.format.rate, settings.turn_detection
        self._held = bytearray()
        self._start = start  # of what is held, in samples since the beginning of the session
        self._first = start  # sample of the detector
        self._detector: TurnDetector | None = None
        self._padding = 0
        if self._turns is not None:
            self._detector = TurnDetector(self.rate, self._turns.threshold, self._turns.silence_duration_ms / 1000)
            self._padding = self.rate * self._turns.prefix_padding_ms // 1000

    @property
    def end(self) -> int:
        """Samples that have come since the beginning of the session."""
        return self._start + len(self._held) // SAMPLE_BYTES

    @property
    def seconds(self) -> float:
        """Of what is held."""
        return len(self._held) / SAMPLE_BYTES / self.rate

    @property
    def is_speaking(self) -> bool:
        return self._detector is not None and self._detector.is_speaking

    def append(self, pcm: bytes) -> Iterator[Boundary]:
        """The boundaries of turns in what is new, `at` in samples of the session. It is to be read to its end."""
        before = self.end
        self._held += pcm
        if self._detector is None:
            return
        new = np.frombuffer(self._held, "<i2", self.end - before, (before - self._start) * SAMPLE_BYTES)
        samples = new.astype(np.float32) * np.float32(2**-15)
        del new  # an array of it would keep the buffer from changing its size
        for boundary in self._detector.feed(samples):
            at = self._first + boundary.at
            yield Boundary(boundary.begins, max(self._start, at - self._padding) if boundary.begins else at)
        if not self._detector.is_speaking:
            # What has not been judged yet may be the beginning of speech.
            self._drop(self.end - self._padding - self.rate // 2)

    def take(self, start: int = 0, end: int | None = None) -> Recording:
        """What is held from the sample `start` to the sample `end` of the session; what is before `end` is dropped."""
        end = self.end if end is None else end
        begin = max(0, start - self._start) * SAMPLE_BYTES
        pcm = bytes(self._held[begin : (end - self._start) * SAMPLE_BYTES])
        self._drop(end)
        return Recording(pcm, self.rate)

    def clear(self) -> None:
        """Drops everything, and what comes next may begin a turn."""
        self._start, self._held = self.end, bytearray()
        if self._detector is not None:
            self._detector.end_turn()

    def milliseconds(self, sample: int) -> int:
        return sample * 1000 // self.rate

    def _drop(self, before: int) -> None:
        if (count := before - self._start) > 0:
            del self._held[: count * SAMPLE_BYTES]
            self._start = before


def decode_audio(text: str) -> bytes:
    """The bytes of base64. Raises HttpError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HttpError(f"audio: is no base64: {error}", "audio", code="invalid_audio") from None
