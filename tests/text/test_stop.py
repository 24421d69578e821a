from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.errors import ParameterError
from octavo.text.stop import StopStrings

texts = st.text("ab", max_size=12)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def reference(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The definition: the first end at which a stop string ends, the first of the list there."""
    for end in range(len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return text[: end if include else end - len(stop)], stop
    return text, None


def feed(pieces: list[str], stops: list[str], include: bool) -> tuple[str, str | None]:
    search = StopStrings(stops, include)
    out = ""
    for piece in pieces:
        emitted, matched = search.append(piece)
        out += emitted
        if matched is not None:
            return out, matched
    return out + search.flush(), None


@given(texts, stop_lists, st.booleans())
def test_the_result_is_that_of_the_whole_text_at_every_split(text: str, stops: list[str], include: bool) -> None:
    expected = reference(text, stops, include)
    assert feed(list(text), stops, include) == expected
    for cut in range(len(text) + 1):
        assert feed([text[:cut], text[cut:]], stops, include) == expected


@given(st.lists(st.text("ab", max_size=3), max_size=8), stop_lists)
def test_only_text_that_may_start_a_stop_string_is_held_back(pieces: list[str], stops: list[str]) -> None:
    search = StopStrings(stops)
    seen = sent = ""
    for piece in pieces:
        seen += piece
        emitted, matched = search.append(piece)
        sent += emitted
        if matched is not None:
            return
        held = seen[len(sent) :]
        starts = [seen[i:] for i in range(len(seen)) if any(stop.startswith(seen[i:]) for stop in stops)]
        assert held == max(starts, key=len, default="")


def test_text_is_sent_at_once_if_the_stop_string_is_included() -> None:
    search = StopStrings(["</s>"], include_in_output=True)
    assert search.append("a</") == ("a</", None)
    assert search.append("s>b") == ("s>", "</s>")


def test_of_stop_strings_that_end_together_the_first_of_the_list_wins() -> None:
    assert StopStrings(["bc", "abc"]).append("xabc") == ("xa", "bc")
    assert StopStrings(["abc", "bc"]).append("xabc") == ("x", "abc")


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert StopStrings(["abcd", "bc"]).append("abcd") == ("a", "bc")


def test_text_after_a_stop_is_dropped() -> None:
    search = StopStrings(["."])
    assert search.append("one. two") == ("one", ".")
    assert search.append("three") == ("", ".")
    assert search.flush() == ""
    assert search.matched == "."


def test_an_unfinished_stop_string_is_flushed_as_text() -> None:
    search = StopStrings(["###"])
    assert search.append("a##") == ("a", None)
    assert search.flush() == "##"


@pytest.mark.parametrize("stops", [[""], ["a", ""], [3]])
def test_a_stop_string_that_is_empty_or_no_string_is_refused(stops: list[str]) -> None:
    with pytest.raises(ParameterError, match="stop"):
        StopStrings(stops)
