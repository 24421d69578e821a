"""Where turns begin and end in audio that comes in pieces."""

import numpy as np
import pytest

from octavo.speech.turns import TurnDetector

from .test_silence import silence, talk

RATE = 16000


def boundaries(samples, piece=4096, **options):
    """(begins, second) of each boundary, of audio that comes in pieces of so many samples."""
    detector = TurnDetector(RATE, **options)
    pieces = [samples[at : at + piece] for at in range(0, len(samples), piece)]
    return [(found.begins, found.at / RATE) for each in pieces for found in detector.feed(each)]


TWO_TURNS = np.concatenate([silence(2, 1e-4), talk(3), silence(2, 1e-4), talk(2), silence(1, 1e-4)])


@pytest.mark.parametrize("piece", [1, 319, 320, 4096, 10**6])
def test_turns_are_found_wherever_the_audio_is_cut(piece):
    samples = TWO_TURNS if piece > 1 else TWO_TURNS[: 6 * RATE]
    found = boundaries(samples, piece)
    expected = [(True, 2.0), (False, 5.5), (True, 7.0), (False, 9.5)]
    assert [begins for begins, _ in found] == [begins for begins, _ in expected[: len(found)]]
    assert len(found) == (4 if piece > 1 else 2)
    for (_, at), (_, wanted) in zip(found, expected, strict=False):
        assert at == pytest.approx(wanted, abs=0.2)


def test_a_longer_silence_joins_turns_and_a_shorter_one_parts_them():
    assert len(boundaries(TWO_TURNS, silence_seconds=2.5)) == 1
    pauses = np.concatenate([talk(2), silence(0.3), talk(2), silence(0.3)])
    assert len(boundaries(pauses, silence_seconds=0.2)) == 4


@pytest.mark.parametrize("samples", [silence(60), silence(60, 5e-3), np.zeros(0, np.float32)])
def test_silence_steady_noise_and_nothing_begin_no_turn(samples):
    assert boundaries(samples) == []


def test_a_higher_threshold_needs_louder_speech():
    quiet = np.concatenate([silence(2, 1e-3), talk(2, 0.005), silence(1, 1e-3)])
    assert len(boundaries(quiet, threshold=0.5)) == 2
    assert boundaries(quiet, threshold=1.0) == []


def test_another_rate_has_frames_of_the_same_length():
    detector = TurnDetector(24000)
    samples = np.interp(np.arange(3 * 24000) / 1.5, np.arange(2 * RATE + RATE), np.concatenate([silence(1), talk(2)]))
    (found,) = detector.feed(samples.astype(np.float32))
    assert found.at / 24000 == pytest.approx(1.0, abs=0.2)
