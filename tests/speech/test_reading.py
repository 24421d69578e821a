"""From windows to segments, in order."""

import json

import pytest

from octavo.speech.formats import FORMATS, write
from octavo.speech.reading import hull
from octavo.speech.result import Segment, Transcription, Word
from octavo.speech.windows import next_window, split_at_timestamps


class Tokens:
    """Ids from 1000 on are times in steps of 0.1 s; 900 is the end; those below are text."""

    end = 900

    def timestamp(self, token):
        return (token - 1000) / 10 if token >= 1000 else None

    def is_text(self, token):
        return token < 900


def at(seconds):
    return 1000 + round(seconds * 10)


def segments(*ids, seconds=30.0):
    return list(split_at_timestamps(list(ids), Tokens(), seconds))


def test_segments_lie_between_timestamps():
    ids = (at(0), 1, 2, at(1.5), at(2), 3, at(4), 900)
    assert segments(*ids) == [(0.0, 1.5, [1, 2]), (2.0, 4.0, [3])]


def test_text_without_an_end_lasts_until_the_window_does():
    assert segments(at(0), 1, at(1), at(1), 2, seconds=9.0) == [(0.0, 1.0, [1]), (1.0, 9.0, [2])]
    assert segments(1, 2, 900, seconds=7.5) == [(0.0, 7.5, [1, 2])]


def test_nothing_is_no_segment():
    assert segments(900) == segments(at(0), at(3), 900) == []


@pytest.mark.parametrize(
    ("ids", "seconds"),
    [
        ([at(0), 1, at(2), at(2), 2, 900], 2.0),  # the second segment was cut off: it is heard again
        ([at(0), 1, at(2), at(2.5), 2, at(4), 900], 30.0),  # the last one ended, and only silence follows
        ([at(0), 1, at(2), at(2), 900], 2.0),
        ([at(0), 1, 900], 30.0),
        ([900], 30.0),
    ],
)
def test_the_next_window_begins_where_the_last_whole_segment_ended(ids, seconds):
    assert next_window(ids, Tokens(), 30.0) == seconds


def transcription():
    words = [Word("Hello,", 0.0, 0.4, 0.9), Word("world.", 0.5, 1.0, 0.8)]
    segment = Segment(0, 0, 0.0, 1.5, "Hello, world.", [1, 2], 0.0, -0.1, 1.0, 0.01, words)
    return Transcription("Hello, world.", [segment], "de", 2.0)


def test_formats():
    found = {name: write(transcription(), name, words=name == "verbose_json") for name in FORMATS}
    assert found["text"] == "Hello, world.\n"
    assert json.loads(found["json"]) == {"text": "Hello, world."}
    assert found["srt"] == "1\n00:00:00,000 --> 00:00:01,500\nHello, world.\n\n"
    assert found["vtt"] == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello, world.\n\n"
    value = json.loads(found["verbose_json"])
    assert (value["language"], value["duration"], value["task"]) == ("german", 2.0, "transcribe")
    assert [word["word"] for word in value["words"]] == ["Hello,", "world."]
    assert "words" not in json.loads(write(transcription(), "verbose_json"))
    with pytest.raises(ValueError, match="verbose_json"):
        write(transcription(), "docx")


@pytest.mark.parametrize(
    ("words", "segment", "expected"),
    [
        ([(1.0, 1.5), (1.5, 2.0)], (0.0, 5.0), [(1.0, 1.5), (1.5, 2.0)]),  # inside
        ([(3.0, 3.5), (8.0, 8.5)], (4.0, 6.0), [(3.0, 3.5), (8.0, 8.5)]),  # the words are right
        ([(3.0, 5.0), (5.0, 5.5)], (4.0, 6.0), [(4.0, 5.0), (5.0, 5.5)]),  # a pause before the first word
        ([(4.0, 5.0), (5.0, 8.0)], (4.0, 6.0), [(4.0, 5.0), (5.0, 6.0)]),  # and after the last
        ([(3.6, 5.0)], (4.0, 4.7), [(3.6, 5.0)]),  # a little over the border
        ([(2.0, 9.0)], (4.0, 6.0), [(4.0, 6.0)]),
    ],
)
def test_a_segment_spans_its_words_without_the_pauses_in_them(words, segment, expected):
    found = [Word("x", start, end, 1.0) for start, end in words]
    assert hull(found, *segment) == (expected[0][0], expected[-1][1])
    assert [(word.start, word.end) for word in found] == expected
