"""The tokenizers of Whisper: as tokenizer.json, and as the files from before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from nasty_corpus import NASTY
from tokenizers import decoders, models, pre_tokenizers, trainers

from octavo.errors import ModelLoadError
from octavo.text.tokenizer_files import read_tokenizer

CONTROL = ["<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
CONFIG = {
    "tokenizer_class": "WhisperTokenizer",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
    "add_bos_token": False,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """vocab.json, merges.txt, added_tokens.json and tokenizer_config.json, with three timestamps."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
    )
    backend.train_from_iterator(NASTY * 3, trainer)
    backend.model.save(str(tmp_path))
    first = backend.get_vocab_size()
    added = {token: first + i for i, token in enumerate([*CONTROL, "<|0.00|>", "<|0.02|>", "<|0.04|>"])}
    write(tmp_path, "added_tokens.json", dict(reversed(added.items())))
    write(tmp_path, "tokenizer_config.json", CONFIG)
    return tmp_path


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_the_old_files_encode_and_decode_as_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = read_tokenizer(folder)
    theirs = transformers.WhisperTokenizer.from_pretrained(folder)
    for text in (*NASTY, "<|startoftranscript|> a<|0.02|>"):
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text, add_special_tokens=False), skip_special_tokens=False) == text
    assert ours.eos_token_id == theirs.eos_token_id == ours.token_id("<|endoftext|>")


def test_control_tokens_are_special_and_timestamps_are_not(folder: Path) -> None:
    tokenizer = read_tokenizer(folder)
    assert {tokenizer.token_id(token) for token in [*CONTROL, "<|endoftext|>"]} == tokenizer.special_ids
    ids = tokenizer.encode("<|startoftranscript|><|en|><|0.00|> so<|0.04|><|endoftext|>", add_special_tokens=False)
    assert tokenizer.decode(ids) == "<|0.00|> so<|0.04|>"


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("tokenizer_config.json", {}, "tokenizer_class"),
        ("tokenizer_config.json", CONFIG | {"tokenizer_class": "Qwen2Tokenizer"}, "tokenizer_class"),
        ("added_tokens.json", {}, "<|startoftranscript|> <|notimestamps|> <|endoftext|>"),
        ("added_tokens.json", {"<|startoftranscript|>": 7}, "<|startoftranscript|>"),
        ("added_tokens.json", {"<|startoftranscript|>": "7"}, "tokens"),
        ("added_tokens.json", [], "file"),
        ("vocab.json", {"a": "b"}, "vocabulary"),
        ("vocab.json", [], "vocabulary"),
    ],
)
def test_old_files_that_are_wrong_are_refused_by_field(folder: Path, name: str, content: Any, field: str) -> None:
    write(folder, name, content)
    with pytest.raises(ModelLoadError) as raised:
        read_tokenizer(folder)
    assert raised.value.field == field
    assert "\n" not in str(raised.value)


def test_a_ctranslate2_folder_without_tokenizer_json_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.txt").write_text("!\n")
    with pytest.raises(ModelLoadError, match=r"there is no tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_the_tokens_of_a_ctranslate2_folder_are_those_of_its_vocabulary(whisper_model: Path) -> None:
    tokenizer = read_tokenizer(whisper_model)
    vocabulary = (whisper_model / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    assert tokenizer.backend.id_to_token(50361) == vocabulary[50361] == "<|nocaptions|>"
    assert [tokenizer.backend.id_to_token(i) for i in range(len(tokenizer))] == vocabulary[: len(tokenizer)]
    for text in NASTY:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
