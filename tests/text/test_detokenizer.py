from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_corpus import NASTY

from octavo.text.detokenizer import IncrementalDetokenizer
from octavo.text.tokenizer import Tokenizer


@pytest.fixture(scope="session", params=["byte_level", "llama", "unigram", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


numbers = st.lists(st.integers(0, 10_000), max_size=40)
byte_strings = st.lists(st.sampled_from([*"aé€😀".encode(), 0x20, 0x80, 0xFF, 0xC0, 0xED, 0xF4]), max_size=20)


def ids_of(tokenizer: Tokenizer, numbers: list[int]) -> list[int]:
    """Ids of all kinds, also some outside the vocabulary: the embedding of a model may be padded."""
    return [number % (len(tokenizer) + 3) for number in numbers]


def stream(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None, skip: bool = True) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt or [], skip_special_tokens=skip)
    return [*(detokenizer.append(i) for i in ids), detokenizer.flush()]


def check(pieces: list[str], whole: str) -> None:
    """All that is sent is part of the whole text, so a U+FFFD is only where the whole has one."""
    sent = ""
    for piece in pieces:
        sent += piece
        assert whole.startswith(sent)
    assert sent == whole


@given(numbers, st.booleans())
def test_the_pieces_are_the_decoded_output(tokenizer: Tokenizer, numbers: list[int], skip: bool) -> None:
    ids = ids_of(tokenizer, numbers)
    check(stream(tokenizer, ids, skip=skip), tokenizer.decode(ids, skip_special_tokens=skip))


@given(numbers, st.booleans(), st.sampled_from(["Hello, world", " ", "日本", "x "]))
def test_the_pieces_continue_the_prompt(tokenizer: Tokenizer, numbers: list[int], skip: bool, prompt: str) -> None:
    ids, prompt_ids = ids_of(tokenizer, numbers), tokenizer.encode(prompt)
    before = tokenizer.decode(prompt_ids, skip_special_tokens=skip)
    whole = tokenizer.decode(prompt_ids + ids, skip_special_tokens=skip)
    assert whole.startswith(before)
    check(stream(tokenizer, ids, prompt_ids, skip), whole[len(before) :])


@pytest.mark.parametrize("family", ["byte_level", "llama", "unigram"])
@given(data=byte_strings)
def test_any_bytes_stream_as_they_decode(
    byte_level: Tokenizer, llama: Tokenizer, unigram: Tokenizer, family: str, data: list[int]
) -> None:
    tokenizer = {"byte_level": byte_level, "llama": llama, "unigram": unigram}[family]
    by_byte = {tokenizer.token_bytes(i): i for i in range(len(tokenizer))}
    ids = [by_byte[bytes([value])] for value in data if bytes([value]) in by_byte]
    check(stream(tokenizer, ids), tokenizer.decode(ids))


@given(data=byte_strings)
def test_byte_level_text_is_what_the_library_decodes(byte_level: Tokenizer, data: list[int]) -> None:
    by_byte = {byte_level.token_bytes(i): i for i in range(len(byte_level))}
    ids = [by_byte[bytes([value])] for value in data]
    assert byte_level.decode(ids) == byte_level.backend.decode(ids)


def test_real_text_streams_back(tokenizer: Tokenizer) -> None:
    for text in NASTY:
        ids = tokenizer.encode(text)
        check(stream(tokenizer, ids), tokenizer.decode(ids))


def test_a_character_is_sent_when_its_last_byte_has_come(llama: Tokenizer) -> None:
    ids = [llama.token_id(f"<0x{value:02X}>") for value in "€a€".encode()]
    assert stream(llama, ids) == ["", "", "€", "a", "", "", "€", ""]


def test_an_unfinished_character_becomes_a_replacement_at_the_end(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("\U00012345")
    assert len(ids) == 4
    assert stream(byte_level, ids[:3]) == ["", "", "", "\ufffd"]


def test_the_first_space_is_dropped_only_at_the_start_of_all_text(llama: Tokenizer) -> None:
    ids = llama.encode("test", add_special_tokens=False)
    assert "".join(stream(llama, ids)) == "test"
    assert "".join(stream(llama, ids, prompt=llama.encode("a"))) == " test"
    # The prompt has only BOS, which has no text if it is skipped.
    assert "".join(stream(llama, ids, prompt=[1])) == "test"
    assert "".join(stream(llama, ids, prompt=[1], skip=False)) == " test"


def test_special_tokens_are_shown_on_request(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a<|im_end|>b")
    assert "".join(stream(byte_level, ids)) == "ab"
    assert "".join(stream(byte_level, ids, skip=False)) == "a<|im_end|>b"


def test_tokens_without_text_do_not_lose_the_context(metaspace: Tokenizer) -> None:
    ids = metaspace.encode("one two")
    filler = [len(metaspace) + 1] * 40
    first = ids[: len(ids) // 2]
    check(stream(metaspace, first + filler + ids[len(first) :]), "one two")
