"""Samples that users give as arrays."""

import numpy as np
import pytest

from octavo.errors import AudioError
from octavo.speech.resample import from_array

from .conftest import sine
from .encoded import signal


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 384000])
def test_any_rate_becomes_16_khz(rate):
    samples = from_array(sine(440, 2, rate=rate), rate)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(32000, abs=1)
    middle = slice(200, 31800)  # the filter has no past at the edges
    np.testing.assert_allclose(samples[middle], sine(440, 2)[middle], atol=1e-4)


def test_what_16_khz_cannot_carry_is_filtered_out():
    samples = from_array(sine(11000, 1, rate=48000), 48000)
    assert np.abs(samples[200:-200]).max() < 1e-3


def test_samples_at_16_khz_are_copied_as_they_are():
    given = sine(440, 1)
    samples = from_array(given, 16000)
    np.testing.assert_array_equal(samples, given)
    assert not np.shares_memory(samples, given)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float16", "float32", "float64"])
def test_integers_are_scaled_to_their_range_and_floats_are_not(dtype):
    given = signal(1, 16000)
    scale = np.iinfo(dtype).max + 1 if dtype.startswith("int") else 1
    np.testing.assert_allclose(from_array((given * scale).astype(dtype), 16000), given, atol=5e-4)
    extremes = np.array([np.iinfo(dtype).min, 0] if dtype.startswith("int") else [-1, 0], dtype)
    np.testing.assert_array_equal(from_array(extremes, 16000), [-1, 0])


@pytest.mark.parametrize("num_channels", [1, 2, 8])
def test_channels_are_averaged_whichever_axis_they_are(num_channels):
    channels = np.stack([sine(200 + 100 * channel, 0.5) for channel in range(num_channels)])
    expected = channels.mean(axis=0)
    np.testing.assert_allclose(from_array(channels, 16000), expected, atol=1e-6)
    np.testing.assert_allclose(from_array(channels.T, 16000), expected, atol=1e-6)


def test_of_equal_axes_the_first_is_that_of_the_channels():
    np.testing.assert_allclose(from_array([[0.1, 0.2], [0.3, 0.4]], 16000), [0.2, 0.3], atol=1e-6)


def test_the_limit_is_in_seconds_of_the_array():
    assert len(from_array(np.zeros(48000), 48000, max_seconds=1)) == 16000
    with pytest.raises(AudioError, match=r"^audio: is 1\.5 s long, and the limit is 1 s$"):
        from_array(np.zeros(72000), 48000, max_seconds=1)


@pytest.mark.parametrize(
    ("array", "rate", "reason"),
    [
        ([], 16000, "is empty"),
        (np.zeros((2, 0)), 16000, "is empty"),
        (0.5, 16000, r"shape must be \[samples\], or \[channels, samples\] with at most 8 channels, got \[\]"),
        (np.zeros((9, 9)), 16000, r"got \[9, 9\]"),
        (np.zeros((2, 3, 4)), 16000, r"got \[2, 3, 4\]"),
        (np.zeros(9, np.uint8), 16000, "dtype must be float, int16 or int32, got uint8"),
        (np.zeros(9, bool), 16000, "got bool"),
        (np.zeros(9, complex), 16000, "got complex128"),
        (["a"], 16000, "got <U1"),
        ([None], 16000, "got object"),
        (np.zeros(9), 0, "sample rate must be 4000 to 384000 Hz, got 0"),
        (np.zeros(9), -16000, "got -16000"),
        (np.zeros(9), 1, "got 1"),
        (np.zeros(9), 4_000_000_000, "got 4000000000"),
        (np.zeros(9), 16000.5, r"got 16000\.5"),
        (np.zeros(9), float("nan"), "got nan"),
        (np.zeros(9), float("inf"), "got inf"),
        ([0, 0, np.nan], 8000, r"sample 2 \(at 0\.000 s\) is nan"),
        ([0, np.inf, np.nan], 48000, r"sample 1 .* is inf"),
        ([0.0, 1e300], 16000, "is inf"),
        ([0.0, -32768.0], 16000, "is -32768; samples must be numbers within about -1..1"),
    ],
)
def test_other_arrays_are_refused(array, rate, reason):
    with pytest.raises(AudioError, match=f"^audio: .*{reason}"):
        from_array(np.asarray(array), rate)
