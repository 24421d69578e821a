"""Where long audio is cut, and which of it is left out."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.speech.silence import PADDING_FRAMES, Splitter, frame_levels, is_silent, speech_frames, split

from .conftest import sine

RATE = 16000
PADDING = PADDING_FRAMES * 320


def silence(seconds, level=0.0):
    """Noise of an amplitude; none by default."""
    return (level * np.random.default_rng(1).normal(0, 1, round(seconds * RATE))).astype(np.float32)


def talk(seconds, amplitude=0.2):
    """Noise in four syllables a second; the gaps between them are no pauses."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(round(seconds * 100)).normal(0, 1, len(time))
    return (amplitude * (0.03 + np.sin(np.pi * 4 * time) ** 2) * noise).astype(np.float32)


def cuts(*parts):
    """The borders of the parts when they are joined, in samples."""
    return np.cumsum([0, *(len(part) for part in parts)])


def near(position, expected):
    return abs(position - expected) <= PADDING + 320


def test_short_speech_is_one_span_without_the_silence_around_it():
    parts = [silence(60), talk(5), silence(70)]
    [(start, end)] = split(np.concatenate(parts))
    border = cuts(*parts)
    assert start <= border[1]
    assert end >= border[2]
    assert near(start, border[1])
    assert near(end, border[2])


@pytest.mark.parametrize("level", [0.0, 1e-5, 1e-3, 5e-3])
@pytest.mark.parametrize("seconds", [0.01, 1, 60, 95.33])
def test_silence_and_steady_noise_that_is_not_loud_give_no_span(level, seconds):
    samples = silence(seconds, level)
    assert split(samples) == []
    assert is_silent(samples)


def test_nothing_gives_no_span():
    assert split(np.zeros(0, np.float32)) == []
    assert is_silent(np.zeros(0, np.float32))
    assert Splitter().finish() == []


def test_a_click_is_not_speech():
    samples = silence(40, 1e-4)
    samples[20 * RATE : 20 * RATE + 200] = 0.9
    assert split(samples) == []


@pytest.mark.parametrize("amplitude", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_speech_of_any_loudness_is_found(amplitude, noise):
    parts = [silence(20, noise), talk(3, amplitude), silence(20, noise)]
    [(start, end)] = split(np.concatenate(parts))
    assert near(start, 20 * RATE)
    assert near(end, 23 * RATE)


def test_what_is_loud_may_be_speech_however_steady_it_is():
    samples = sine(300, 45, amplitude=0.1)
    assert not is_silent(samples)
    spans = split(samples)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(samples)
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]


def test_windows_are_cut_in_the_pause_that_is_longest_in_their_second_half():
    parts = [talk(8), silence(2), talk(7), silence(0.4), talk(6), silence(0.8), talk(5), silence(0.5), talk(9)]
    border = cuts(*parts)
    spans = split(np.concatenate(parts))
    middle = (border[5] + border[6]) // 2  # of the pause of 0.8 s
    assert len(spans) == 2
    assert abs(spans[0][1] - middle) <= PADDING
    assert abs(spans[1][0] - middle) <= PADDING
    assert border[5] <= spans[0][1] <= spans[1][0] <= border[6]


def test_speech_without_a_pause_is_cut_at_its_quietest_spot():
    samples = talk(50)
    samples[22 * RATE : 22 * RATE + 2000] *= 0.3  # too short for a pause
    (start, cut), (next_start, end) = split(samples)
    assert (start, end) == (0, len(samples))
    assert cut == next_start
    assert abs(cut - 22 * RATE) < 4000


def test_speech_without_any_end_is_cut_and_nothing_is_lost():
    spans = split(talk(200))
    assert spans[0][0] == 0
    assert spans[-1][1] == 200 * RATE
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]
    assert all(15 * RATE <= end - start <= 30 * RATE for start, end in spans[:-1])


@pytest.mark.parametrize(("extra", "count"), [(0, 1), (1, 2), (5000, 2)])
def test_exactly_a_window_is_one_span(extra, count):
    assert len(split(np.append(talk(30), talk(1)[:extra]))) == count


@pytest.mark.parametrize("max_seconds", [1, 2.345, 10, 30])
def test_no_span_is_longer_than_asked_for_and_all_speech_is_in_one(max_seconds):
    parts = [talk(11), silence(3), talk(0.4), silence(0.3), talk(40), silence(40), talk(2.2)]
    samples, border = np.concatenate(parts), cuts(*parts)
    spans = split(samples, max_seconds)
    covered = np.zeros(len(samples), int)
    for start, end in spans:
        assert end - start <= max_seconds * RATE
        covered[start:end] += 1
    assert covered.max() == 1
    loud = np.repeat(frame_levels(samples) > -30, 320)[: len(samples)]
    assert covered[loud].all()
    assert not covered[border[5] + RATE : border[6] - RATE].any()


PARTS = [silence(4), talk(9), silence(1.5), talk(3), silence(7, 1e-3), talk(12.7), silence(0.4), talk(6)]
SPEECH = np.concatenate(PARTS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(SPEECH)), max_size=20))
def test_spans_do_not_depend_on_how_the_audio_came(borders):
    splitter = Splitter(10)
    spans = [span for part in np.split(SPEECH, sorted(borders)) for span in splitter.feed(part)] + splitter.finish()
    assert [(span.start, span.end) for span in spans] == split(SPEECH, 10)
    for span in spans:
        np.testing.assert_array_equal(span.samples, SPEECH[span.start : span.end])


def test_spans_come_as_soon_as_they_are_complete():
    splitter = Splitter(30)
    speech = talk(31)
    assert splitter.feed(speech[: 30 * RATE]) == []
    [span] = splitter.feed(speech[30 * RATE :])
    assert span.start == 0


def test_memory_holds_a_window_and_a_chunk_of_an_hour():
    chunk = np.concatenate([talk(6), silence(1), talk(3)])
    splitter, seconds = Splitter(), 0.0
    tracemalloc.start()
    try:
        for _ in range(360):
            seconds += sum(len(span.samples) for span in splitter.feed(chunk)) / RATE
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    seconds += sum(len(span.samples) for span in splitter.finish()) / RATE
    assert 0.9 * 3600 < seconds <= 3600
    assert peak < 16e6  # an hour of samples is 230 MB


@pytest.mark.parametrize("max_seconds", [0, -1, 0.5, 1e9, float("nan")])
def test_a_length_that_is_no_window_is_refused(max_seconds):
    with pytest.raises(ValueError, match="max_seconds must be 1 to 3600"):
        Splitter(max_seconds)


def test_levels_are_in_decibels_of_full_scale():
    samples = np.concatenate([np.ones(320), np.full(320, 0.1), np.zeros(320), np.full(10, 0.01)]).astype(np.float32)
    np.testing.assert_allclose(frame_levels(samples), [0, -20, -120, -40], atol=1e-4)


def test_a_recording_between_silences_is_found(recording):
    samples = np.concatenate([silence(60), recording, silence(60), np.tile(recording, 3), silence(60)])
    spans = split(samples)
    assert len(spans) == 4
    assert all(len(recording) * 0.9 < end - start < len(recording) for start, end in spans)
    starts = [60 * RATE, 120 * RATE + len(recording)]
    assert all(0 < start - begin < RATE for (start, _), begin in zip(spans, starts, strict=False))


def test_a_recording_is_cut_between_its_sentences(recording):
    speech = speech_frames(frame_levels(recording))
    spans = split(recording, 10)
    assert len(spans) >= len(recording) / RATE / 10
    for _, end in spans[:-1]:
        assert not speech[end // 320 - 3 : end // 320].any()
