"""Subtitle files, as players read them."""

import io
import re

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.speech.subtitles import Cue, srt, vtt

SEGMENTS = [
    Cue(0.0, 1.5, " Hello there."),
    Cue(1.5, 3.75, "General\nKenobi."),
    Cue(3661.001, 3662.0, "Bye."),
]


def test_srt_numbers_its_cues_and_has_commas():
    assert srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n"
        "2\n00:00:01,500 --> 00:00:03,750\nGeneral\nKenobi.\n\n"
        "3\n01:01:01,001 --> 01:01:02,000\nBye.\n\n"
    )


def test_vtt_has_a_header_and_points():
    assert vtt(SEGMENTS) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "00:00:01.500 --> 00:00:03.750\nGeneral\nKenobi.\n\n"
        "01:01:01.001 --> 01:01:02.000\nBye.\n\n"
    )


def test_no_segments_are_a_file_without_cues():
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"


def test_segments_without_text_are_dropped_and_not_counted():
    segments = [Cue(0, 1, ""), Cue(1, 2, " \n\t\r\n "), Cue(2, 3, "Yes.")]
    assert srt(segments) == "1\n00:00:02,000 --> 00:00:03,000\nYes.\n\n"
    assert vtt(segments).count("-->") == 1


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (0.0004, "00:00:00"),
        (0.9996, "00:00:01"),
        (59.9999, "00:01:00"),
        (3599.9999, "01:00:00"),
        (86400, "24:00:00"),
        (360000, "100:00:00"),
    ],
)
def test_times_are_rounded_to_milliseconds_and_carried(seconds, clock):
    assert vtt([Cue(seconds, 400000, "a")]).splitlines()[2].startswith(f"{clock}.000 --> ")


def test_a_cue_lasts_at_least_a_millisecond():
    assert "00:00:02,000 --> 00:00:02,001" in srt([Cue(2, 2, "a")])
    assert "00:00:02.000 --> 00:00:02.001" in vtt([Cue(2, 1.5, "a")])


@pytest.mark.parametrize("write", [srt, vtt])
@pytest.mark.parametrize("time", [-0.1, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(write, time):
    with pytest.raises(ValueError, match="time must be seconds from 0 on"):
        write([Cue(time, 1, "a")])


def test_text_that_looks_like_a_cue_stays_text():
    text = "no\n\n2\n00:00:00,000 --> 00:00:09,000\n<b>forged</b> & co"
    assert srt([Cue(0, 1, text)]) == "1\n00:00:00,000 --> 00:00:01,000\n" + (
        "no\n2\n00:00:00,000 -> 00:00:09,000\n<b>forged</b> & co\n\n"
    )
    assert vtt([Cue(0, 1, text)]) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n" + (
        "no\n2\n00:00:00,000 --&gt; 00:00:09,000\n&lt;b&gt;forged&lt;/b&gt; &amp; co\n\n"
    )


@pytest.mark.parametrize("arrow", ["-->", "--->", "-------->", "-->-->"])
def test_no_arrow_is_left_in_a_text(arrow):
    assert srt([Cue(0, 1, arrow)]).count("-->") == 1
    assert vtt([Cue(0, 1, arrow)]).count("-->") == 1


texts = st.text(st.one_of(st.sampled_from("\n\r->\u2028\x85\x0b\x0c <&a1:"), st.characters(codec="utf-8")), max_size=40)


@pytest.mark.parametrize("write", [srt, vtt])
@given(st.lists(texts, max_size=4))
def test_any_text_gives_as_many_cues_as_segments_that_have_some(write, texts):
    written = write([Cue(i, i + 1, text) for i, text in enumerate(texts)])
    num_cues = sum(bool(text.strip()) for text in texts)
    assert written.count("-->") == num_cues
    blocks = re.split(r"(?:\r\n|\n|\r){2,}", written.removeprefix("WEBVTT\n\n"))
    assert len([block for block in blocks if block]) == num_cues


@pytest.mark.parametrize(("write", "name"), [(srt, "srt"), (vtt, "webvtt")])
def test_libav_reads_the_same_cues(write, name):
    with av.open(io.BytesIO(write(SEGMENTS).encode()), format=name) as container:
        stream = container.streams.subtitles[0]
        cues = [
            (float(packet.pts * stream.time_base), float(packet.duration * stream.time_base), bytes(packet).decode())
            for packet in container.demux(stream)
            if packet.size
        ]
    assert cues == [
        (segment.start, pytest.approx(segment.end - segment.start), segment.text.strip()) for segment in SEGMENTS
    ]
