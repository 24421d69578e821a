"""The audio that users give, whatever form it has, as samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import PromptError
from octavo.speech import SAMPLE_RATE

Samples = NDArray[np.float32]


def chunks_of(audio: Any, max_seconds: float | None = None, name: str | None = None) -> Iterator[Samples]:
    """Chunks of audio, float32 [n], mono, 16 kHz, made as they are taken.

    `audio` is a path, a file's bytes, a binary file object, or what `samples_of` takes. Raises AudioError and
    PromptError.
    """
    from octavo.speech.decode import decode

    if isinstance(audio, str | Path | bytes) or hasattr(audio, "read"):
        return decode(audio, max_seconds, name=name)
    return iter([samples_of(audio)])


def samples_of(audio: Any) -> Samples:
    """(samples, rate), or samples at 16 kHz; see `from_array`. Raises AudioError or PromptError."""
    from octavo.speech.resample import from_array

    samples, rate = audio if isinstance(audio, tuple) and len(audio) == 2 else (audio, SAMPLE_RATE)
    if not isinstance(samples, np.ndarray | list) and not hasattr(samples, "__array__"):
        kind = type(samples).__name__
        raise PromptError(f"audio must be a path, bytes, an array of samples, or (samples, rate), got {kind}")
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        raise PromptError(f"audio: the rate must be a number of samples per second, got {rate!r}")
    return from_array(samples, float(rate))
