"""What a tokenizer's files may not ask of the library: more time than a load may take, and its panics on the screen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from conftest import train_byte_level
from octavo.errors import ModelLoadError
from octavo.text.rust_errors import loading
from octavo.text.tokenizer import Tokenizer
from octavo.text.tokenizer_files import read_tokenizer
from octavo.text.tokenizer_limits import MAX_ADDED_TOKENS, MAX_SECTION

PREPEND = {"type": "Prepend", "prepend": "x"}
DOUBLE = {"type": "Replace", "pattern": {"String": "x"}, "content": "xx"}
ENDLESS = {"type": "Split", "pattern": {"Regex": "(a+)+$b"}, "behavior": "Isolated", "invert": False}


def write(folder: Path, **changes: Any) -> Path:
    value = {**json.loads(train_byte_level().to_str()), **changes}
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return folder


def added(count: int, content: str = "<{}>") -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": 10_000 + i, "content": content.format(i), **flags} for i in range(count)]


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [*steps]}


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 2000}}, "normalizer", "adds more than 1024 characters"),
        ({"normalizer": sequence(*[PREPEND] * 2000)}, "normalizer", "adds more than 1024 characters"),
        ({"normalizer": sequence(*[DOUBLE] * 60)}, "normalizer", "more than 1024 times as long"),
        ({"normalizer": sequence(sequence(*[DOUBLE] * 60))}, "normalizer", "more than 1024 times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * MAX_SECTION}}, "normalizer", "within 4194304 characters"),
        ({"pre_tokenizer": {**ENDLESS, "pattern": {"Regex": "x" * MAX_SECTION}}}, "pre_tokenizer", "within 4194304"),
        ({"added_tokens": added(MAX_ADDED_TOKENS + 1)}, "added_tokens", "has 131073 tokens; at most 131072"),
        ({"added_tokens": added(1, "x" * 9000)}, "added_tokens", "one has more than 8192 characters"),
    ],
    ids=["prepend", "many prepends", "doubled", "doubled inside", "100 MB", "a long regex", "many added", "a long one"],
)
def test_what_would_take_the_library_long_is_refused_before(
    tmp_path: Path, changes: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(ModelLoadError, match=reason) as raised:
        read_tokenizer(write(tmp_path, **changes))
    assert raised.value.field == field


def test_a_key_can_not_hide_behind_escapes(tmp_path: Path) -> None:
    file = write(tmp_path, normalizer=sequence(*[DOUBLE] * 60)) / "tokenizer.json"
    file.write_text(file.read_text().replace('"normalizer"', '"norm\\u0061lizer"'))
    with pytest.raises(ModelLoadError, match=r"spells a letter as .u0061"):
        read_tokenizer(tmp_path)


def test_usual_steps_and_tokens_that_look_like_escapes_are_read(tmp_path: Path) -> None:
    steps = sequence(PREPEND, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "NFKC"})
    write(tmp_path, normalizer=steps, added_tokens=[*added(1, "\\u0061"), *added(1, '"normalizer": [')])
    assert read_tokenizer(tmp_path).token_id("\\u0061") is not None


def test_a_regex_that_never_ends_is_one_error_and_nothing_on_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelLoadError, match="retry-limit-in-match over") as raised:
        read_tokenizer(write(tmp_path, pre_tokenizer=ENDLESS))
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


STRIP = {"type": "Strip", "content": "a", "start": 1 << 40, "stop": 1 << 40}


def test_a_decoder_that_panics_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelLoadError, match="index out of bounds"):
        read_tokenizer(write(tmp_path, decoder=STRIP))
    assert capfd.readouterr().err == ""


def test_tokens_on_which_the_library_fails_are_replaced(tmp_path: Path) -> None:
    """They are decoded in the engine's steps, where a panic would end everyone's request."""
    backend = Backend.from_file(str(write(tmp_path, decoder=STRIP) / "tokenizer.json"))
    tokenizer = Tokenizer(backend)
    ids = tokenizer.encode("a")
    assert tokenizer.decode(ids) == tokenizer.token(ids[0]) == "\ufffd"


def test_what_others_write_meanwhile_is_not_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = Backend.from_file(str(write(tmp_path, pre_tokenizer=ENDLESS) / "tokenizer.json"))

    def encode() -> None:
        with loading(tmp_path, "tokenizer"):
            os.write(2, b"a line of another thread\n")
            backend.encode("a" * 48)

    with pytest.raises(ModelLoadError):
        encode()
    assert capfd.readouterr().err == "a line of another thread\n"
