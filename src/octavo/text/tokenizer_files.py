"""Reads the tokenizer of a Hugging Face checkpoint directory.

The rules follow transformers' `PreTrainedTokenizerFast` (`TokenizersBackend` since version 5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from octavo.errors import ModelLoadError
from octavo.text.rust_errors import loading
from octavo.text.sentencepiece_backend import build_backend
from octavo.text.sentencepiece_model import read_model
from octavo.text.tekken import NAMED, read_tekken
from octavo.text.tokenizer import Tokenizer
from octavo.text.tokenizer_limits import check_count, probe, read_tokenizer_json
from octavo.weights.files import code_of, read_json

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Classes of transformers that put BOS and EOS around a text as their config says; DeepSeek, too, is a
# "LlamaTokenizer".
_LLAMA_LIKE = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer")
_TIMESTAMP = re.compile(r"<\|[0-9]+\.[0-9]{2}\|>")
_WHISPER_FRAME = ("<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>")
_JSON_BUDGET = 512 << 20  # bytes for the entries of a tokenizer_config.json with very many added tokens
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a checkpoint: its own file (tokenizer.json, tekken.json, tokenizer.model, Whisper's), configs.

    Raises ModelLoadError if there is none, or it is malformed.

    tokenizer.json is parsed once, in Rust: it has most of the start-up time of a small model.
    """
    config = _read_json(path / "tokenizer_config.json")
    named = _named_tokens(path, config)
    add_bos, add_eos = _explicit_flags(path, config)
    template = None
    if (path / "tokenizer.json").is_file():
        backend = read_tokenizer_json(path / "tokenizer.json")
        if backend.post_processor is not None and not _is_llama_like(config):
            add_bos = add_eos = None  # the post-processor decides
    elif (path / "tekken.json").is_file():
        backend, template = read_tekken(path / "tekken.json")
        named, add_bos = NAMED | named, True if add_bos is None else add_bos
    elif (path / "tokenizer.model").is_file():
        file = path / "tokenizer.model"
        model = read_model(file)
        legacy = config.get("legacy") is not False
        backend = build_backend(model, file, legacy=legacy)
        named = model.named_tokens() | named
        # Such a file has no post-processor; Hugging Face's Llama class adds BOS unless told otherwise.
        add_bos = model.is_bpe if add_bos is None else add_bos
        add_eos = not model.is_bpe if add_eos is None else add_eos
    elif (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        backend = _whisper_backend(path, config)
        add_bos = add_eos = None
    else:
        reason = "there is no tokenizer.json, no tekken.json, no tokenizer.model, and no Whisper files"
        raise ModelLoadError(path, "tokenizer", reason + code_of(config, "AutoTokenizer"))
    probe(backend, path)
    with loading(path / "tokenizer_config.json", "added tokens"):
        _add_missing_tokens(backend, path / "tokenizer_config.json", config, named)
    return Tokenizer(backend, named, add_bos, add_eos, _chat_template(path, config) or template)


def _whisper_backend(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a Whisper from before tokenizer.json: GPT-2's, and control tokens after its vocabulary."""
    if (kind := config.get("tokenizer_class")) not in ("WhisperTokenizer", "WhisperTokenizerFast"):
        reason = f"vocab.json and merges.txt are read for WhisperTokenizer only, not {kind!r:.60}; save tokenizer.json"
        raise ModelLoadError(path / "tokenizer_config.json", "tokenizer_class", reason)
    with loading(path / "vocab.json", "vocabulary"):
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    file = path / "added_tokens.json"
    added = _read_json(file)
    if not all(type(i) is int for i in added.values()):
        raise ModelLoadError(file, "tokens", "must map tokens to ids")
    check_count(file, "tokens", len(added))
    texts = sorted(added, key=lambda text: added[text])
    backend.add_tokens([AddedToken(text, normalized=False, special=not _TIMESTAMP.fullmatch(text)) for text in texts])
    for text in texts:
        if (place := backend.token_to_id(text)) != added[text]:
            raise ModelLoadError(file, text[:80], f"has id {added[text]}, but its place is {place}")
    frame = [(text, backend.token_to_id(text)) for text in _WHISPER_FRAME]
    with loading(file, " ".join(_WHISPER_FRAME)):
        single = f"{_WHISPER_FRAME[0]} {_WHISPER_FRAME[1]} $A {_WHISPER_FRAME[2]}"
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=frame)
    return backend


def _read_json(file: Path) -> dict[str, Any]:
    return read_json(file, _JSON_BUDGET) if file.is_file() else {}


def _token_text(file: Path, name: str, value: Any) -> str:
    """A token is written as its text, or as an object that has it as `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ModelLoadError(file, name, f"must be a token, is {str(value)!r}")
    return text


def _named_tokens(path: Path, config: dict[str, Any]) -> dict[str, str]:
    named = {}
    for file, source in (
        (path / "special_tokens_map.json", _read_json(path / "special_tokens_map.json")),
        (path / "tokenizer_config.json", config),
    ):
        for name in _NAMED:
            if source.get(name) is not None:
                named[name] = _token_text(file, name, source[name])
    return named


def _explicit_flags(path: Path, config: dict[str, Any]) -> tuple[bool | None, bool | None]:
    """(add_bos, add_eos) of the config; both None if it has neither."""
    names = ("add_bos_token", "add_eos_token")
    if not any(name in config for name in names):
        return None, None
    for name in names:
        if not isinstance(config.get(name), bool | None):
            raise ModelLoadError(path / "tokenizer_config.json", name, "must be true, false or null")
    return bool(config.get("add_bos_token", _is_llama_like(config))), bool(config.get("add_eos_token"))


def _is_llama_like(config: dict[str, Any]) -> bool:
    return str(config.get("tokenizer_class")).removesuffix("Fast") in _LLAMA_LIKE


def _add_missing_tokens(
    backend: tokenizers.Tokenizer, file: Path, config: dict[str, Any], named: dict[str, str]
) -> None:
    """Adds what only the config knows: added tokens with other flags, and named tokens that are not yet
    special.
    """
    known = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    wanted = list(_config_tokens(file, config))
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if not isinstance(extra, dict | list):
        raise ModelLoadError(file, "extra_special_tokens", f"must be a list or an object of tokens, is {extra!r}")
    texts = [*named.values(), *(extra.values() if isinstance(extra, dict) else extra)]
    check_count(file, "added tokens", len(wanted) + len(texts))
    wanted += [AddedToken(_token_text(file, "special tokens", text), normalized=False, special=True) for text in texts]
    for token in wanted:
        # The model has no embedding for a token that its vocabulary lacks, so the vocabulary does not grow.
        is_news = token.content not in known or (token.special and not known[token.content])
        if is_news and backend.token_to_id(token.content) is not None:
            backend.add_tokens([token])
            known[token.content] = token.special


def _config_tokens(file: Path, config: dict[str, Any]) -> Iterator[AddedToken]:
    entries = config.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ModelLoadError(file, "added_tokens_decoder", "must map ids to tokens")
    for entry in entries.values():
        flags = {name: bool(entry[name]) for name in _FLAGS if name in entry}
        yield AddedToken(_token_text(file, "added_tokens_decoder", entry), **flags)


def _chat_template(path: Path, config: dict[str, Any]) -> str | None:
    """The usual template: its own .jinja file, or what the config or its own JSON file says; those may name several."""
    file, found = path / "tokenizer_config.json", config.get("chat_template")
    if found is None:
        file = path / "chat_template.json"
        found = _read_json(file).get("chat_template")
    if isinstance(found, list):
        for entry in found:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("name", "template")):
                raise ModelLoadError(file, "chat_template", "each of a list of templates needs a name and a template")
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if not isinstance(found, str | None):
        raise ModelLoadError(file, "chat_template", f"must be a string or a list, is a {type(found).__name__}")
    own = path / "chat_template.jinja"
    if own.is_file():
        with loading(own, "chat template"):
            return own.read_text(encoding="utf-8")
    return found
