"""What the real model makes of sounds that are no speech, and of speech that is."""

import numpy as np
import pytest

from octavo import LLM
from octavo.speech import SAMPLE_RATE

SECONDS = 60


@pytest.fixture(scope="module")
def whisper(whisper_model):
    return LLM(str(whisper_model))


def tones(*hertz, each=0.5, harmonics=1):
    """A melody, over and over."""
    count = SECONDS * SAMPLE_RATE
    melody = np.resize(np.repeat(hertz, int(each * SAMPLE_RATE)), count)
    phase = 2 * np.pi * np.cumsum(melody) / SAMPLE_RATE
    return sum(np.sin(n * phase) / n for n in range(1, harmonics + 1)) / 5


def noise(amplitude):
    return amplitude * np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE)


SOUNDS = {
    "silence": lambda: np.zeros(SECONDS * SAMPLE_RATE),
    "white noise": lambda: noise(0.1),
    "loud noise": lambda: noise(0.5),
    "a tone": lambda: tones(440),
    "a melody": lambda: tones(220, 330, 440, 262),
    "a chord": lambda: (tones(261.6) + tones(329.6) + tones(392.0)) / 2,
    "an organ": lambda: tones(262, 294, 330, 349, 392, each=0.4, harmonics=6),
}


@pytest.mark.parametrize("sound", SOUNDS)
def test_what_is_no_speech_has_no_text(whisper, real_model, sound):
    samples = SOUNDS[sound]().astype(np.float32)
    for timestamps in (True, False):
        result = whisper.transcribe(samples, timestamps=timestamps)
        assert (result.text, result.segments, result.duration) == ("", [], SECONDS)


@pytest.mark.parametrize(
    "options",
    [{}, {"timestamps": False}, {"sequential": True}, {"beam_size": 5}, {"word_timestamps": True, "language": "en"}],
)
def test_speech_is_written_down_word_for_word(whisper, real_model, audio_path, spoken_text, options):
    expected = spoken_text.split()
    result = whisper.transcribe(str(audio_path), **options)
    assert result.text.split() == expected
    assert result.segments
    assert all(0 <= segment.start <= segment.end <= result.duration for segment in result.segments)
    if "word_timestamps" in options:
        assert [word.word for word in result.words] == expected
        starts = [word.start for word in result.words]
        assert starts == sorted(starts)


@pytest.mark.parametrize("option", ["quantization", "kv_cache_dtype"])
def test_int8_writes_down_the_same_words(whisper_model, audio_path, spoken_text, option):
    whisper = LLM(str(whisper_model), executor="native", **{option: "int8"})
    assert whisper.transcribe(str(audio_path)).text.split() == spoken_text.split()
