from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from nasty_corpus import NASTY
from tokenizers import models, pre_tokenizers, processors

from conftest import train_byte_level
from octavo.errors import ModelLoadError, PromptError
from octavo.text.tokenizer import Tokenizer
from octavo.text.tokenizer_files import read_tokenizer


def write(folder: Path, backend: tokenizers.Tokenizer, **config: Any) -> Path:
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def reference(folder: Path) -> Any:
    """Hugging Face's own tokenizer of a directory."""
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def test_tokens_are_spelled_as_the_vocabulary_spells_them(smollm_dir: Path, smollm: Tokenizer) -> None:
    expected = reference(smollm_dir)
    for text in NASTY:
        ids = smollm.encode(text)
        assert [smollm.spelling(i) for i in ids] == expected.convert_ids_to_tokens(ids)
    assert smollm.spelling(smollm.vocab_size) == ""


def test_smollm_encodes_and_decodes_as_transformers(smollm_dir: Path, smollm: Tokenizer) -> None:
    expected = reference(smollm_dir)
    for text in NASTY:
        ids = smollm.encode(text)
        assert ids == expected.encode(text)
        assert smollm.decode(ids) == expected.decode(ids) == text
    assert smollm.special_ids == frozenset(expected.all_special_ids) | frozenset(range(17))
    assert (smollm.bos_token_id, smollm.eos_token_id, smollm.pad_token_id) == (1, 2, 2)
    assert len(smollm) == smollm.vocab_size == len(expected)
    assert smollm.chat_template == expected.chat_template


def with_bos() -> tokenizers.Tokenizer:
    backend = train_byte_level()
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    return backend


NAMED = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"}}


@pytest.mark.parametrize("config", [{}, {"add_bos_token": False}, {"add_eos_token": True}])
def test_the_post_processor_of_the_file_adds_special_tokens(tmp_path: Path, config: dict[str, Any]) -> None:
    write(tmp_path, with_bos(), **NAMED, **config)
    tokenizer, expected = read_tokenizer(tmp_path), reference(tmp_path)
    for text in ("Hello", "", "a<|im_end|>b<think>c"):
        assert tokenizer.encode(text) == expected.encode(text)
        for special in (True, False):
            assert tokenizer.encode(text, special) == expected.encode(text, add_special_tokens=special)
    assert tokenizer.encode("")[0] == tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [1, 7]),
        ({"add_bos_token": False}, [7]),
        ({"add_bos_token": None}, [7]),
        ({"add_eos_token": True}, [1, 7, 2]),
        ({"add_bos_token": False, "add_eos_token": True}, [7, 2]),
    ],
)
def test_the_config_of_a_llama_class_says_which_special_tokens_are_added(
    tmp_path: Path, config: dict[str, Any], expected: list[int]
) -> None:
    write(tmp_path, with_bos(), **NAMED, tokenizer_class="LlamaTokenizerFast", **config)
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode(tokenizer.token(7)) == expected
    assert tokenizer.encode(tokenizer.token(7), add_special_tokens=False) == [7]


def test_the_config_counts_if_the_file_has_no_post_processor(tmp_path: Path) -> None:
    write(tmp_path, train_byte_level(), **NAMED, add_bos_token=True)
    assert read_tokenizer(tmp_path).encode("") == [1]


def test_a_batch_is_encoded_as_its_texts(byte_level: Tokenizer, llama: Tokenizer) -> None:
    for tokenizer in (byte_level, llama):
        for special in (True, False):
            expected = [tokenizer.encode(text, special) for text in NASTY]
            assert tokenizer.encode_batch(NASTY, special) == expected


PAIRS = [
    ("a cat", "sat on the mat of the king"),
    ("the dog sat on the mat", "a cat"),
    ("cat", "cat"),
    ("", "dog"),
]


@pytest.mark.parametrize("kind", ["template", "BERT", "RoBERTa", "no ends", "Llama's"])
def test_a_pair_is_encoded_and_cut_as_by_transformers(tmp_path: Path, kind: str) -> None:
    words = sorted({word for pair in PAIRS for text in pair for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *words])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 0), ("</s>", 1)]
    processor: Any = {
        "template": processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", ends),
        "BERT": processors.BertProcessing(("</s>", 1), ("<s>", 0)),
        "RoBERTa": processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
        "Llama's": processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> <s>:1 $B:1 </s>:1", ends),
    }.get(kind)
    if processor is not None:
        backend.post_processor = processor
    flags = {"add_bos_token": True, "add_eos_token": True, "tokenizer_class": "LlamaTokenizer"}
    folder = write(tmp_path, backend, bos_token="<s>", eos_token="</s>", **(flags if kind == "Llama's" else {}))
    tokenizer, theirs = read_tokenizer(folder), reference(folder)
    for first, second in PAIRS:
        for longest in (None, 6, 7, 9):
            how = {"truncation": "longest_first", "max_length": longest} if longest else {}
            expected = theirs(first, second, return_token_type_ids=True, **how)
            ids, begin = tokenizer.encode_pair(first, second, longest)
            assert ids == expected["input_ids"]
            types = expected["token_type_ids"]
            assert begin == (types.index(1) if 1 in types else 0)
    with pytest.raises(PromptError, match="must be a string, got int"):
        tokenizer.encode_pair("a", 1)  # type: ignore[arg-type]


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    backend = train_byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    tokenizer = read_tokenizer(write(tmp_path, backend))
    assert tokenizer.decode(tokenizer.encode("a long text without end")) == "a long text without end"


def test_a_token_is_shown_with_its_space_and_its_bytes(llama: Tokenizer, byte_level: Tokenizer) -> None:
    assert llama.token(llama.encode("test")[1]).startswith(" ")
    byte = llama.token_id("<0xE2>")
    assert byte is not None
    assert (llama.token(byte), llama.token_bytes(byte)) == ("\ufffd", b"\xe2")
    assert byte_level.token(2) == "<|im_end|>"
    assert byte_level.token(10_000) == ""


def test_decoding_skips_special_tokens_unless_told_otherwise(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("<|im_start|>a<think><|im_end|>")
    assert byte_level.decode(ids) == "a<think>"
    assert byte_level.decode(ids, skip_special_tokens=False) == "<|im_start|>a<think><|im_end|>"


def test_ids_outside_the_vocabulary_have_no_text(byte_level: Tokenizer, metaspace: Tokenizer) -> None:
    assert byte_level.decode([byte_level.encode("a")[0], 10_000, 2**40, -1]) == "a"
    assert metaspace.decode([10_000]) == ""


def test_spaces_between_special_tokens_can_be_left_out() -> None:
    vocabulary = {"[UNK]": 0, "hello": 1, "world": 2, "[A]": 3, "[B]": 4}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["[A]", "[B]"])
    tokenizer = Tokenizer(backend)
    ids = [1, 3, 4, 4, 2]
    assert tokenizer.decode(ids, skip_special_tokens=False) == "hello [A] [B] [B] world"
    joined = tokenizer.decode(ids, skip_special_tokens=False, spaces_between_special_tokens=False)
    assert joined == "hello [A][B][B] world"


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates_are_refused(byte_level: Tokenizer, text: str) -> None:
    with pytest.raises(PromptError, match="surrogates"):
        byte_level.encode(text)
    with pytest.raises(PromptError, match="surrogates"):
        byte_level.encode_batch(["fine", text])


def test_a_prompt_that_is_no_string_is_refused(byte_level: Tokenizer) -> None:
    with pytest.raises(PromptError, match="int"):
        byte_level.encode(3)  # type: ignore[arg-type]


def test_named_tokens_become_special_if_the_vocabulary_has_them(tmp_path: Path) -> None:
    write(tmp_path, train_byte_level(), eos_token="!", pad_token="[not there]")
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.eos_token_id in tokenizer.special_ids
    assert tokenizer.pad_token_id is None
    assert len(tokenizer) == len(Tokenizer(train_byte_level()))


def test_the_config_can_make_an_added_token_special(tmp_path: Path) -> None:
    entry = {"content": "<think>", "special": True, "normalized": False}
    write(tmp_path, train_byte_level(), added_tokens_decoder={"600": entry})
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.token_id("<think>") in tokenizer.special_ids


def test_special_tokens_map_is_the_fallback_of_the_config(tmp_path: Path) -> None:
    write(tmp_path, train_byte_level(), eos_token="<|im_end|>")
    other = {"eos_token": "<|endoftext|>", "bos_token": {"content": "<|im_start|>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(other))
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_a_template_file_wins_over_the_config(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    write(tmp_path, train_byte_level(), chat_template=named)
    assert read_tokenizer(tmp_path).chat_template == "d"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert read_tokenizer(tmp_path).chat_template == "file"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "c"}')
    (tmp_path / "chat_template.jinja").unlink()
    assert read_tokenizer(tmp_path).chat_template == "c"
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_tokenizer(tmp_path).chat_template is None


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        ("tokenizer.json", b"", "tokenizer"),
        ("tokenizer.json", b'{"model": 3}', "tokenizer"),
        ("tokenizer_config.json", b"[]", "file"),
        ("tokenizer_config.json", b"\xff{", "file"),
        ("tokenizer_config.json", b"[" * 100_000, "file"),
        ("tokenizer_config.json", b'{"eos_token": 3}', "eos_token"),
        ("tokenizer_config.json", b'{"add_bos_token": "yes"}', "add_bos_token"),
        ("tokenizer_config.json", b'{"chat_template": 3}', "chat_template"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": 1}]}', "chat_template"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}', "added_tokens_decoder"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {}}}', "added_tokens_decoder"),
        ("tokenizer_config.json", b'{"extra_special_tokens": [[]]}', "special tokens"),
        ("tokenizer_config.json", b'{"extra_special_tokens": 3}', "extra_special_tokens"),
        ("chat_template.jinja", b"\xff", "chat template"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, file: str, content: bytes, field: str) -> None:
    write(tmp_path, train_byte_level())
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelLoadError) as raised:
        read_tokenizer(tmp_path)
    assert (raised.value.file, raised.value.field) == (str(tmp_path / file), field)
    assert "\n" not in str(raised.value)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_transformers_reads_a_sentencepiece_directory_alike(llama_dir: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shutil.copy(llama_dir / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"legacy": false}')
    expected = transformers.LlamaTokenizer.from_pretrained(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    for text in NASTY[:9]:
        if not text.startswith((" ", "\t")):
            assert tokenizer.encode(text, add_special_tokens=False) == expected.encode(text, add_special_tokens=False)
