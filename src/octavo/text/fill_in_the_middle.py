"""How models are asked for the text between two others, by the special tokens that their tokenizers have for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo.text.tokenizer import Tokenizer

_SENTINEL = "\u263a"  # something that no word goes on from


@dataclass(frozen=True, slots=True)
class Form:
    """Token texts before the prefix, before the suffix, and before what is to be written; none where that is "".

    What follows the tokens of `ends` is no longer part of the answer. With `suffix_first`, the suffix precedes the
    prefix. With `bare_suffix`, the suffix gets no space that the tokenizer puts before words.
    """

    prefix: str
    suffix: str
    middle: str = ""
    ends: tuple[str, ...] = ()
    suffix_first: bool = False
    bare_suffix: bool = False


# Each is as the models' authors publish it; the first that a tokenizer has the tokens of is the model's.
FORMS = (
    # Qwen 2.5 Coder and later, CodeGemma, Granite 4
    Form(
        *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ends=("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|endoftext|>"),
    ),
    # StarCoder, StarCoder 2, StableCode, Granite Code, Granite 3
    Form("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ends=("<file_sep>", "<|endoftext|>")),
    Form("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<|endoftext|>",)),  # SantaCoder
    Form("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek Coder, V2, V3
    Form("▁<PRE>", "▁<SUF>", "▁<MID>", ends=("▁<EOT>",), bare_suffix=True),  # CodeLlama
    Form("[PREFIX]", "[SUFFIX]", suffix_first=True),  # Codestral, Mistral
    Form("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),  # Seed-Coder
)


def form_of(tokenizer: Tokenizer) -> Form | None:
    """The form of a model with this tokenizer; None where it has no such tokens."""
    for form in FORMS:
        names = filter(None, (form.prefix, form.suffix, form.middle))
        if all(tokenizer.token_id(name) in tokenizer.added_tokens for name in names):
            return form
    return None


def end_ids(form: Form, tokenizer: Tokenizer) -> list[int]:
    """Tokens that end an answer, besides those that end any text."""
    return [id for name in form.ends for id in _ids(name, tokenizer)]


def infill_ids(form: Form, tokenizer: Tokenizer, prefix: Sequence[int], suffix: str, special: bool = True) -> list[int]:
    """The prompt for what is between `prefix` and `suffix`; `special` tokens are put around it as around any text."""
    names = (form.prefix, form.suffix, form.middle)
    before, after, middle = (_ids(name, tokenizer) for name in names)
    head, tail = [*before, *prefix], [*after, *_suffix_ids(form, tokenizer, suffix)]
    ids = [*tail, *head, *middle] if form.suffix_first else [*head, *tail, *middle]
    return tokenizer.with_special_tokens(ids) if special else ids


def _suffix_ids(form: Form, tokenizer: Tokenizer, suffix: str) -> list[int]:
    if not form.bare_suffix:
        return tokenizer.encode(suffix, add_special_tokens=False)
    whole, sentinel = (tokenizer.encode(text, add_special_tokens=False) for text in (_SENTINEL + suffix, _SENTINEL))
    return whole[len(sentinel) :]


def _ids(name: str, tokenizer: Tokenizer) -> list[int]:
    """The token of a name; nothing where there is none."""
    found = tokenizer.token_id(name) if name else None
    return [] if found is None else [found]
