"""Bounds on what a tokenizer's files may ask of the library that reads them, far above those of real models.

Its time grows faster than its files: with the number of added tokens, and with the text that a normalizer makes of
each.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from octavo.errors import ModelLoadError
from octavo.text.rust_errors import loading

MAX_FILE_BYTES = 256 << 20  # of tokenizer.json; those of the largest vocabularies have 40 MB
MAX_VOCABULARY = 1 << 20
MAX_ADDED_TOKENS = 1 << 17
MAX_TOKEN_CHARACTERS = 8192
MAX_SECTION = 4 << 20  # characters of the JSON of a normalizer and its like: some have tables in them
MAX_ADDED_SECTION = 64 << 20
# How many times longer the steps of a normalizer or a decoder may make a text, and how many characters they may add.
MAX_GROWTH = 1024
_SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")
# A letter or underscore as an escape. Nobody writes such files, and in others keys are found by their spelling.
_ESCAPED_LETTER = re.compile(r"(?<!\\)(?:\\\\)*(\\u00(?:4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a]))", re.IGNORECASE)
# Runs of what vocabularies have and regular expressions stumble on.
_PROBES = [character * 48 for character in "aA0 .\n-_'é中"] + ["aA0 " * 16, "a b" * 24]


def check_count(file: str | os.PathLike[str], field: str, count: int, limit: int = MAX_ADDED_TOKENS) -> None:
    """Raises ModelLoadError for too many tokens."""
    if count > limit:
        raise ModelLoadError(file, field, f"has {count} tokens; at most {limit} are accepted")


def check_unique(tokens: Sequence[str], file: str | os.PathLike[str], field: str) -> dict[str, int]:
    """Ids by token. Raises ModelLoadError for a token that is there twice."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        i = next(i for i, token in enumerate(tokens) if vocabulary[token] != i)
        raise ModelLoadError(file, f"{field}[{i}]", f"{tokens[i]!r} is also token {vocabulary[tokens[i]]}")
    return vocabulary


def read_tokenizer_json(file: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json. Raises ModelLoadError.

    The library parses it in one go, and the vocabulary only there; here the rest is looked at before.
    """
    with loading(file, "tokenizer"):
        if (size := file.stat().st_size) > MAX_FILE_BYTES:
            raise ModelLoadError(file, "file", f"{size} bytes; at most {MAX_FILE_BYTES} are accepted")
        data = file.read_bytes()
        text = data.decode()
        if escaped := _ESCAPED_LETTER.search(text):
            raise ModelLoadError(file, "JSON", f"spells a letter as {escaped[1]}")
        for name in _SECTIONS:
            for match in re.finditer(rf'"{name}"\s*:\s*(?=[\[{{])', text):
                limit = MAX_ADDED_SECTION if name == "added_tokens" else MAX_SECTION
                _check_section(file, name, _section(file, name, text[match.end() : match.end() + limit]))
        return tokenizers.Tokenizer.from_buffer(data)


def probe(backend: tokenizers.Tokenizer, file: str | os.PathLike[str]) -> None:
    """Raises ModelLoadError if the tokenizer fails on simple texts, as with regular expressions that never end."""
    with loading(file, "tokenizer"):
        for text in _PROBES:
            ids = backend.encode(text).ids
            for part in (ids, ids[:1], []):
                backend.decode(part, skip_special_tokens=False)


def _section(file: Path, name: str, text: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        reason = f"is no JSON that ends within {len(text)} characters, or is nested too deeply"
        raise ModelLoadError(file, name, reason) from None


def _check_section(file: Path, name: str, value: Any) -> None:
    if name == "added_tokens":
        check_count(file, name, len(value))
        for token in value:
            if isinstance(token, dict) and len(str(token.get("content"))) > MAX_TOKEN_CHARACTERS:
                raise ModelLoadError(file, name, f"one has more than {MAX_TOKEN_CHARACTERS} characters")
    elif name in ("normalizer", "decoder"):
        growth, added = 1, 0
        for step in _steps(value):
            growth *= max(1, len(str(step.get("content", ""))) if step.get("type") == "Replace" else 1)
            added += len(str(step.get("prepend", "")))
            if max(growth, added) > MAX_GROWTH:
                reason = f"makes a text more than {MAX_GROWTH} times as long, or adds more than {MAX_GROWTH} characters"
                raise ModelLoadError(file, name, reason)


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or decoder, those of its sequences too."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _steps(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _steps(inner)
