"""tokenizer.model against the sentencepiece package itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_corpus import NASTY

from octavo.errors import ModelLoadError
from octavo.text.sentencepiece_model import read_model
from octavo.text.tokenizer import Tokenizer
from octavo.text.tokenizer_files import read_tokenizer

sentencepiece = pytest.importorskip("sentencepiece")

# The package takes control pieces in a text as text; this tokenizer, like Hugging Face's, as tokens.
TEXTS = [text for text in NASTY if "</s>" not in text]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bpe", {}),
        ("bpe", {"add_dummy_prefix": False}),
        ("unigram", {}),
        ("unigram", {"add_dummy_prefix": False}),
        ("unigram", {"remove_extra_whitespaces": True}),
    ],
)
def test_a_model_file_encodes_and_decodes_as_sentencepiece(
    train_sentencepiece: Callable[..., Path], kind: str, options: dict[str, object]
) -> None:
    folder = train_sentencepiece(kind, **options)
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    tokenizer = read_tokenizer(folder)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == reference.encode(text)
        assert tokenizer.decode(ids) == reference.decode(ids)


def test_without_legacy_text_beside_a_user_defined_piece_is_as_in_sentencepiece(
    train_sentencepiece: Callable[..., Path],
) -> None:
    folder = train_sentencepiece("bpe", user_defined_symbols=["<tool>"])
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    text = "call<tool>the end <tool> or not"
    (folder / "tokenizer_config.json").write_text('{"legacy": false}')
    assert read_tokenizer(folder).encode(text, add_special_tokens=False) == reference.encode(text)
    # With it each text beside a token starts with a space of its own, as in Llama 2's tokenizer.json.
    (folder / "tokenizer_config.json").write_text("{}")
    tokenizer = read_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == "call<tool> the end <tool>  or not"


def test_a_character_map_is_applied(train_sentencepiece: Callable[..., Path]) -> None:
    folder = train_sentencepiece("bpe", normalization_rule_name="nmt_nfkc")
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    text = "ﬁne ½ １２３ ｶﾀｶﾅ"
    ids = read_tokenizer(folder).encode(text, add_special_tokens=False)
    assert ids == reference.encode(text)
    assert reference.decode(ids) == "fine 1⁄2 123 カタカナ"


def test_bytes_that_are_not_utf8_decode_as_in_sentencepiece(llama: Tokenizer, llama_dir: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(str(llama_dir / "tokenizer.model"))
    byte = {value: llama.token_id(f"<0x{value:02X}>") for value in range(256)}
    for data in (
        b"\xff",
        b"\xe2\x82",
        b"ok\xe2\x82\xac\xff\xe2\x82",
        b"\xf0\x9f\x98\x80\x80",
        b"\xc0\xaf\xed\xa0\x80",
    ):
        ids = [byte[value] for value in data]
        assert llama.decode(ids) == reference.decode(ids)


def test_byte_pieces_are_out_of_reach_of_text(llama: Tokenizer) -> None:
    assert llama.token_id("<0x41>") not in llama.encode("<0x41>")


def test_settings_of_the_file_are_read(llama_dir: Path) -> None:
    model = read_model(llama_dir / "tokenizer.model")
    assert (model.is_bpe, model.byte_fallback, model.add_dummy_prefix) == (True, True, True)
    assert model.remove_extra_whitespaces is False
    assert model.named_tokens() == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    assert model.pieces[3] == "<tool>"


def test_bpe_adds_bos_and_unigram_adds_eos(llama: Tokenizer, unigram: Tokenizer) -> None:
    assert llama.encode("Hi")[0] == llama.bos_token_id == 1
    assert llama.eos_token_id not in llama.encode("Hi")
    assert unigram.encode("Hi")[-1] == unigram.eos_token_id
    assert unigram.bos_token_id not in unigram.encode("Hi")


def test_user_defined_pieces_are_tokens_but_not_special(llama: Tokenizer) -> None:
    ids = llama.encode("a<tool>b")
    assert 3 in ids
    assert "<tool>" in llama.decode(ids)


def test_every_truncation_of_a_file_is_refused_or_loads(llama_dir: Path, tmp_path: Path) -> None:
    data = (llama_dir / "tokenizer.model").read_bytes()
    for length in [*range(0, 64), *range(64, len(data), 211)]:
        (tmp_path / "tokenizer.model").write_bytes(data[:length])
        try:
            read_tokenizer(tmp_path)
        except ModelLoadError as error:
            assert error.file == str(tmp_path / "tokenizer.model")  # noqa: PT017


@given(st.binary(max_size=80))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("hostile") / "tokenizer.model"
    file.write_bytes(data)
    with pytest.raises(ModelLoadError):
        read_model(file)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a\xff\xff\xff\xff\x0f", "announced"),
        (b"\x0a", "ends inside a number"),
        (b"\x80" * 11, "more than 64 bits"),
        (b"\x0b", "wire type"),
        (b"\x08\x01", "must be a message"),
        (b"\x0a\x03\x0a\x01\xff", "not UTF-8"),
        (b"\x0a\x02\x08\x01", "text"),
        (b"\x0a\x03\x0a\x01a\x12\x02\x18\x03", "neither"),
        (b"\x0a\x03\x0a\x01a\x12\x03\xc0\x02\x07", "outside the vocabulary"),
        (b"\x0a\x03\x0a\x01a\x0a\x03\x0a\x01a", "is also token"),
    ],
)
def test_a_malformed_file_is_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ModelLoadError, match=reason):
        read_tokenizer(tmp_path)
