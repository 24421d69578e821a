import numpy as np


def sine(hz, seconds, amplitude=0.5, rate=16000):
    """float32 [seconds * rate]."""
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
