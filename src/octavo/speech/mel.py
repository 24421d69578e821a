"""The input of Whisper's encoder: log-mel spectrograms of windows of 30 s."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.speech import SAMPLE_RATE

WINDOW_SECONDS = 30
WINDOW_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE
WINDOW_FRAMES = WINDOW_SECONDS * 100


def window_features(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Features of one window, float32 [n_mels, 3000], a frame every 10 ms.

    `samples` are float32 [n], mono, 16 kHz and finite, at most 480000; the rest of the 30 s is silence. `n_mels` is 80,
    or 128 for large-v3 and its relatives. Raises ValueError for a longer window or another `n_mels`.
    """
    if len(samples) > WINDOW_SAMPLES:
        raise ValueError(f"a window has at most {WINDOW_SAMPLES} samples, got {len(samples)}")
    padded = np.zeros(WINDOW_SAMPLES, np.float32)
    padded[: len(samples)] = samples
    return _native.log_mel(padded, n_mels)
