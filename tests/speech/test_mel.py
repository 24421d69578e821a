"""Log-mel spectrograms against those of transformers, both of its ways."""

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from octavo import _native
from octavo.speech.mel import WINDOW_SAMPLES, window_features

from .conftest import sine

each_n_mels = pytest.mark.parametrize("n_mels", [80, 128])


SIGNALS = {
    "silence": lambda: np.zeros(WINDOW_SAMPLES),
    "tone": lambda: sine(440, 30),
    "high tone": lambda: sine(7000, 30, amplitude=0.9),
    "tone that ends": lambda: sine(1234.5, 1.003, amplitude=1),
    "noise": lambda: np.random.default_rng(0).normal(0, 0.1, WINDOW_SAMPLES),
    "faint noise": lambda: np.random.default_rng(1).normal(0, 1e-6, WINDOW_SAMPLES),
    "noise at its end only": lambda: np.pad(np.random.default_rng(2).normal(0, 0.1, 300), (WINDOW_SAMPLES - 300, 0)),
    "click": lambda: np.eye(1, 5000, 4000)[0],
    "offset": lambda: np.full(20000, 0.25),
    "a few samples": lambda: sine(700, 0.004),
    "nothing": lambda: np.zeros(0),
}


@pytest.fixture(params=SIGNALS)
def signal(request):
    return SIGNALS[request.param]().astype(np.float32)


@each_n_mels
def test_features_equal_the_reference_in_numpy_and_in_torch(signal, n_mels):
    reference = WhisperFeatureExtractor(feature_size=n_mels)
    padded = np.pad(signal, (0, WINDOW_SAMPLES - len(signal)))
    features = window_features(signal, n_mels)
    assert features.dtype == np.float32
    assert features.shape == (n_mels, 3000)
    np.testing.assert_allclose(features, reference._np_extract_fbank_features(padded[None], "cpu")[0], atol=1e-6)
    np.testing.assert_allclose(features, reference._torch_extract_fbank_features(padded[None])[0], atol=1e-4)


@each_n_mels
def test_features_of_speech_equal_the_reference(recording, n_mels):
    reference = WhisperFeatureExtractor(feature_size=n_mels)
    expected = reference(recording, sampling_rate=16000, return_tensors="np").input_features[0]
    np.testing.assert_allclose(window_features(recording, n_mels), expected, atol=1e-4)


@each_n_mels
@pytest.mark.parametrize("count", [201, 320, 399, 1279, 1280, 1281, 16001, 33333])
def test_any_number_of_samples_gives_a_frame_for_each_160(count, n_mels):
    samples = np.random.default_rng(count).normal(0, 0.1, count).astype(np.float32)
    features = _native.log_mel(samples, n_mels)
    assert features.shape == (n_mels, count // 160)
    expected = WhisperFeatureExtractor(feature_size=n_mels)._np_extract_fbank_features(samples[None], "cpu")[0]
    np.testing.assert_allclose(features, expected, atol=1e-6)


@each_n_mels
def test_the_filters_equal_the_reference(n_mels):
    expected = mel_filter_bank(201, n_mels, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(_native.mel_filter_bank(n_mels), expected.T, rtol=1e-12, atol=1e-15)


def test_the_number_of_threads_changes_no_bit(threads):
    samples = SIGNALS["noise"]().astype(np.float32)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(window_features(samples, 80).tobytes())
    assert len(set(results)) == 1


def test_a_frame_is_the_same_wherever_it_lies_in_its_block():
    """Eight frames are transformed together, in pairs; a neighbour leaves no bit of itself in a frame."""
    rng = np.random.default_rng(3)
    once = rng.normal(0, 0.1, 16000).astype(np.float32)
    loud = np.sin(np.arange(16000) / 3).astype(np.float32) * 0.9
    columns = []
    for shift in range(9):
        samples = np.concatenate([loud[: 160 * (20 + shift)], once, loud])
        columns.append(_native.log_mel(samples, 80)[:, 30 + shift])
    for column in columns[1:]:
        np.testing.assert_allclose(column, columns[0], atol=3e-7)


def test_samples_that_cannot_be_a_window_are_refused():
    with pytest.raises(ValueError, match="at most 480000 samples, got 480001"):
        window_features(np.zeros(480001, np.float32), 80)
    with pytest.raises(ValueError, match="n_mels must be 80 or 128, got 64"):
        window_features(np.zeros(10, np.float32), 64)
    with pytest.raises(ValueError, match="more than 200 samples, got 200"):
        _native.log_mel(np.zeros(200, np.float32), 80)
    with pytest.raises(TypeError):
        _native.log_mel(np.zeros(16000, np.float64), 80)
