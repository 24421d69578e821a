"""Tokenizers of every family, small enough to be trained here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import settings
from nasty_corpus import NASTY
from tokenizers import decoders, models, pre_tokenizers, trainers

from octavo.text.tokenizer import Tokenizer
from octavo.text.tokenizer_files import read_tokenizer

settings.register_profile("octavo", deadline=None)  # a busy machine is no failure
settings.load_profile("octavo")


@pytest.fixture(scope="session")
def smollm_dir(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's tokenizer.json, of its own or as transformers makes it of the GGUF file."""
    if (real_model / "tokenizer.json").is_file():
        return real_model
    from transformers import AutoTokenizer

    file = real_model if real_model.is_file() else next(real_model.glob("*.gguf"))
    folder = tmp_path_factory.mktemp("smollm")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm(smollm_dir: Path) -> Tokenizer:
    return read_tokenizer(smollm_dir)


def train_byte_level() -> tokenizers.Tokenizer:
    """A byte-level BPE with ChatML's control tokens (ids 0–2), and one added token that is not special."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    backend.train_from_iterator(NASTY * 3, trainer)
    backend.add_tokens(["<think>"])
    return backend


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    return Tokenizer(train_byte_level(), named)


@pytest.fixture(scope="session")
def train_sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains a SentencePiece model, and gives the directory that has it as tokenizer.model."""
    sentencepiece = pytest.importorskip("sentencepiece")

    def train(kind: str, **options: object) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        sentences = [line for text in NASTY[:9] for line in text.replace("\x00", "").splitlines() if line] * 4
        settings: dict[str, object] = {
            "vocab_size": 420,
            "character_coverage": 0.98,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
            "hard_vocab_limit": False,
            "minloglevel": 2,
            "num_threads": 1,
        }
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_prefix=str(folder / "tokenizer"),
            model_type=kind,
            **(settings | options),
        )
        return folder

    return train


@pytest.fixture(scope="session")
def llama_dir(train_sentencepiece: Callable[..., Path]) -> Path:
    """SentencePiece BPE as Llama 2 has it."""
    folder = train_sentencepiece("bpe", user_defined_symbols=["<tool>"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "add_eos_token": False}))
    return folder


@pytest.fixture(scope="session")
def llama(llama_dir: Path) -> Tokenizer:
    return read_tokenizer(llama_dir)


@pytest.fixture(scope="session")
def unigram_dir(train_sentencepiece: Callable[..., Path]) -> Path:
    return train_sentencepiece("unigram")


@pytest.fixture(scope="session")
def unigram(unigram_dir: Path) -> Tokenizer:
    return read_tokenizer(unigram_dir)


@pytest.fixture(scope="session")
def metaspace(unigram: Tokenizer) -> Tokenizer:
    """A tokenizer whose decoder looks at neighbours, so that it is decoded by the library, as T5's."""
    backend = tokenizers.Tokenizer(unigram.backend.model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend)
