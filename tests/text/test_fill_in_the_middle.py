"""How models are asked for what is between two texts."""

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from cli.conftest import byte_tokenizer
from octavo.text.fill_in_the_middle import FORMS, end_ids, form_of, infill_ids
from octavo.text.tokenizer import Tokenizer

# What the models' cards show for the prefix "ab" and the suffix "cd".
SHOWN = {
    "qwen": "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>",
    "starcoder": "<fim_prefix>ab<fim_suffix>cd<fim_middle>",
    "santacoder": "<fim-prefix>ab<fim-suffix>cd<fim-middle>",
    "deepseek": "<｜fim▁begin｜>ab<｜fim▁hole｜>cd<｜fim▁end｜>",
    "codellama": "▁<PRE>ab▁<SUF>cd▁<MID>",
    "codestral": "[SUFFIX]cd[PREFIX]ab",
    "seed": "<[fim-suffix]>cd<[fim-prefix]>ab<[fim-middle]>",
}


def with_tokens(form, ends=True, **options):
    backend = byte_tokenizer()
    names = filter(None, (form.prefix, form.suffix, form.middle, *(form.ends if ends else ())))
    backend.add_special_tokens(list(names))
    return Tokenizer(backend, {"bos_token": "<|begin|>", "eos_token": "<|end|>"}, **options)


@pytest.mark.parametrize(("form", "shown"), zip(FORMS, SHOWN.values(), strict=True), ids=SHOWN)
def test_the_prompt_is_that_of_the_models_cards(form, shown):
    tokenizer = with_tokens(form, add_bos=True)
    assert form_of(tokenizer) == form
    ids = infill_ids(form, tokenizer, tokenizer.encode("ab", add_special_tokens=False), "cd")
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"<|begin|>{shown}"
    assert infill_ids(form, tokenizer, tokenizer.encode("ab", add_special_tokens=False), "cd", special=False) == ids[1:]
    assert len(end_ids(form, tokenizer)) == len(form.ends)
    assert end_ids(form, with_tokens(form, ends=False)) == []


def test_a_tokenizer_without_such_tokens_has_no_form():
    assert form_of(Tokenizer(byte_tokenizer())) is None
    lacking = byte_tokenizer()
    lacking.add_special_tokens(["<fim_prefix>", "<fim_suffix>"])
    assert form_of(Tokenizer(lacking)) is None


def test_words_of_the_vocabulary_are_no_special_tokens():
    backend = tokenizers.Tokenizer(models.WordLevel({"[PREFIX]": 0, "[SUFFIX]": 1, "a": 2}, unk_token="a"))
    assert form_of(Tokenizer(backend)) is None


def test_a_suffix_gets_no_space_where_the_model_knows_none():
    (form,) = [form for form in FORMS if form.bare_suffix]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "▁", "a", "b", "c", "d", "☺"])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.add_special_tokens([form.prefix, form.suffix, form.middle])
    tokenizer = Tokenizer(backend)
    ids = infill_ids(form, tokenizer, tokenizer.encode("ab"), "cd")
    spelled = [tokenizer.spelling(id) for id in ids]
    assert spelled == [form.prefix, "▁", "a", "b", form.suffix, "c", "d", form.middle]
