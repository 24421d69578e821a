"""What `LLM.get_tokenizer()` gives does what transformers' tokenizer of the same files does."""

import json

import numpy as np
import pytest
from nasty_corpus import NASTY

from conftest import train_byte_level
from octavo.errors import ParameterError, UnsupportedError
from octavo.text.chat_template import ChatTemplate
from octavo.text.hf_tokenizer import HFTokenizer
from octavo.text.tokenizer_files import read_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMED = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(ours, transformers' own) of one directory."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    train_byte_level().save(str(folder / "tokenizer.json"))
    config = {**NAMED, "chat_template": TEMPLATE, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = read_tokenizer(folder)
    template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map)
    ours = HFTokenizer(tokenizer, template, str(folder), 64)
    return ours, transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def test_attributes_are_the_same(both):
    ours, theirs = both
    for name in (*NAMED, "sep_token", "cls_token", "mask_token"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
    for name in ("vocab_size", "name_or_path", "model_max_length", "chat_template", "is_fast", "padding_side", "vocab"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.get_chat_template() == theirs.get_chat_template()
    assert ours.num_special_tokens_to_add() == theirs.num_special_tokens_to_add()


def test_texts_and_ids_are_the_same(both):
    ours, theirs = both
    for text in [*NASTY, "", "a<|im_end|>b<think>c"]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.tokenize(text) == theirs.tokenize(text)
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
            tokens = ours.convert_ids_to_tokens(ids, skip_special_tokens=skip)
            assert tokens == theirs.convert_ids_to_tokens(ids, skip_special_tokens=skip)
            assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
            assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
    batch = [ours.encode(text) for text in NASTY]
    assert ours.batch_decode(batch) == ours.decode(batch) == theirs.batch_decode(batch)
    assert ours.decode(np.array(batch[0])) == theirs.decode(batch[0])
    assert ours.decode(7) == theirs.decode(7)


def test_one_token_is_converted_alone(both):
    ours, theirs = both
    for token in ("<|im_end|>", "Ġthe", "no such token"):
        assert ours.convert_tokens_to_ids(token) == theirs.convert_tokens_to_ids(token)
    assert ours.convert_ids_to_tokens(5) == theirs.convert_ids_to_tokens(5)
    assert ours.convert_ids_to_tokens(10**6) is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_special_tokens": False},
        {"padding": True},
        {"padding": "longest"},
        {"padding": "max_length", "max_length": 12},
        {"truncation": True, "max_length": 4},
        {"padding": True, "truncation": True, "max_length": 4},
    ],
    ids=str,
)
def test_a_call_gives_ids_and_the_mask(both, options):
    ours, theirs = both
    for texts in ("Hello there", ["Hello", "Ask not what your country can do"]):
        found, expected = ours(texts, **options), theirs(texts, return_token_type_ids=False, **options)
        assert found == dict(expected)
        assert found.input_ids == expected.input_ids
    arrays = ours(["Hello", "Hi"], padding=True, return_tensors="np")
    assert arrays.input_ids.shape == arrays.attention_mask.shape


def test_conversations_are_the_same(both):
    ours, theirs = both
    for options in ({}, {"add_generation_prompt": True}, {"continue_final_message": True}):
        for chat in (CHAT, [CHAT, CHAT[:1]]):
            text = ours.apply_chat_template(chat, tokenize=False, **options)
            assert text == theirs.apply_chat_template(chat, tokenize=False, **options)
            ids = ours.apply_chat_template(chat, return_dict=False, **options)
            assert ids == theirs.apply_chat_template(chat, return_dict=False, **options)
            whole = theirs.apply_chat_template(chat, return_dict=True, **options)
            assert ours.apply_chat_template(chat, **options).input_ids == whole["input_ids"]
    other = "{{ messages[0].content }}{{ more }}"
    given = {"chat_template": other, "more": "!", "tokenize": False}
    assert ours.apply_chat_template(CHAT, **given) == theirs.apply_chat_template(CHAT, **given) == "Hello!"


def test_what_is_not_there_is_refused_by_name(both):
    ours, _ = both
    with pytest.raises(UnsupportedError, match="return_tensors='pt'"):
        ours("Hello", return_tensors="pt")
    with pytest.raises(ParameterError, match="padding must be"):
        ours("Hello", padding="left")
    with pytest.raises(UnsupportedError, match="clean_up_tokenization_spaces"):
        ours.decode([1], clean_up_tokenization_spaces=True)
    with pytest.raises(ParameterError, match="kip_special_tokens"):
        ours.decode([1], kip_special_tokens=True)
    with pytest.raises(AttributeError, match="'add_tokens'"):
        _ = ours.add_tokens
