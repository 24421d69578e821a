import os

import numpy as np
import pytest


@pytest.fixture(scope="session")
def recording():
    """A few spoken sentences, float32 [n] at 16 kHz; OCTAVO_TEST_AUDIO names their file."""
    if not (path := os.environ.get("OCTAVO_TEST_AUDIO")):
        pytest.skip("OCTAVO_TEST_AUDIO names no recording")
    from octavo.speech.decode import read_audio

    return read_audio(path)


def sine(hz, seconds, amplitude=0.5, rate=16000):
    """float32 [seconds * rate]."""
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
