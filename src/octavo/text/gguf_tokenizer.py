"""Builds the tokenizer that GGUF metadata describe: `tokenizer.ggml.*` in ggml's docs/gguf.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models

from octavo.errors import ModelLoadError
from octavo.text.parts import TokenizerParts, loading
from octavo.text.pre_tokenizers import PRE_TOKENIZATIONS
from octavo.text.sentencepiece_backend import build_backend
from octavo.text.sentencepiece_model import PieceType, SentencePieceModel
from octavo.text.tokenizer_limits import MAX_VOCABULARY, check_count

_T = TypeVar("_T")
_MODELS = ("gpt2", "llama", "t5")
_IDS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_gguf(metadata: Mapping[str, Any], file: str | os.PathLike[str]) -> TokenizerParts:
    """The tokenizer of a GGUF file. Arrays may be lists or NumPy arrays.

    Raises ModelLoadError for what is missing, malformed or of an unknown kind.
    """
    reader = _Reader(metadata, file)
    tokens = reader.tokens()
    types = reader.integers("token_type", len(tokens)) or [int(PieceType.NORMAL)] * len(tokens)
    ids = {name: reader.token_id(key, len(tokens)) for name, key in _IDS.items()}
    match reader.one(str, "model"):
        case "gpt2":
            backend, add_bos = _byte_level(reader, tokens, types, ids)
            add_eos = False
        case "llama" | "t5" as kind:
            backend = _sentencepiece(reader, kind, tokens, types, ids)
            add_bos, add_eos = kind == "llama", kind == "t5"
        case other:
            raise ModelLoadError(file, "tokenizer.ggml.model", f"{other!r} is not one of {', '.join(_MODELS)}")
    return TokenizerParts(
        backend,
        {name: tokens[i] for name, i in ids.items() if i is not None},
        reader.optional(bool, "add_bos_token", add_bos),
        reader.optional(bool, "add_eos_token", add_eos),
        reader.chat_templates(),
    )


def _byte_level(
    reader: _Reader, tokens: list[str], types: list[int], ids: Mapping[str, int | None]
) -> tuple[Tokenizer, bool]:
    """(tokenizer, whether BOS is added unless the file says otherwise)."""
    pre = reader.optional(str, "pre", "default")
    if pre not in PRE_TOKENIZATIONS:
        raise reader.fail("pre", f"{pre!r} is not one of {', '.join(sorted(PRE_TOKENIZATIONS))}")
    kind = PRE_TOKENIZATIONS[pre]()
    vocabulary = reader.vocabulary(tokens)
    merges = reader.merges(vocabulary)
    with loading(reader.file, "tokenizer.ggml.merges"):
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=kind.ignore_merges))
    backend.pre_tokenizer, backend.normalizer = kind.pre_tokenizer, kind.normalizer
    backend.decoder = decoders.ByteLevel()
    special = (PieceType.UNKNOWN, PieceType.CONTROL)
    named = set(ids.values())
    added = [
        AddedToken(token, normalized=False, special=kind in special or i in named)
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (*special, PieceType.USER_DEFINED)
    ]
    check_count(reader.file, "tokenizer.ggml.token_type", len(added))
    backend.add_tokens(added)
    return backend, kind.add_bos


def _sentencepiece(
    reader: _Reader, kind: str, tokens: list[str], types: list[int], ids: Mapping[str, int | None]
) -> Tokenizer:
    charsmap = reader.array("precompiled_charsmap") or []
    if not all(isinstance(value, int) and -128 <= value < 256 for value in charsmap):
        raise ModelLoadError(reader.file, "tokenizer.ggml.precompiled_charsmap", "must be bytes")
    unk_id = ids["unk_token"]
    if unk_id is None:
        unk_id = next((i for i, piece in enumerate(types) if piece == PieceType.UNKNOWN), 0)
    model = SentencePieceModel(
        tokens,
        reader.scores(len(tokens)),
        types,
        is_bpe=kind == "llama",
        unk_id=unk_id,
        byte_fallback=PieceType.BYTE in types,
        add_dummy_prefix=reader.optional(bool, "add_space_prefix", True),
        remove_extra_whitespaces=reader.optional(bool, "remove_extra_whitespaces", False),
        charsmap=bytes(value & 0xFF for value in charsmap),
    )
    reader.vocabulary(tokens)
    return build_backend(model, reader.file)


@dataclass(frozen=True)
class _Reader:
    """Typed access to `tokenizer.ggml.*`; whatever is not as expected is a ModelLoadError."""

    metadata: Mapping[str, Any]
    file: str | os.PathLike[str]

    def fail(self, key: str, reason: str) -> ModelLoadError:
        return ModelLoadError(self.file, f"tokenizer.ggml.{key}", reason)

    def optional(self, kind: type[_T], key: str, default: _T) -> _T:
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(value, np.generic):
            value = value.item()
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fail(key, f"must be a {kind.__name__}, is {str(value)[:80]!r}")
        return value

    def one(self, kind: type[_T], key: str) -> _T:
        if self.metadata.get(f"tokenizer.ggml.{key}") is None:
            raise self.fail(key, "is missing")
        return self.optional(kind, key, kind())

    def array(self, key: str) -> list[Any] | None:
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = value.tolist()
        if value is not None and not isinstance(value, list | tuple):
            raise self.fail(key, f"must be an array, is {str(value)[:80]!r}")
        return None if value is None else list(value)

    def strings(self, key: str) -> list[str] | None:
        values = self.array(key)
        if values is not None and not all(isinstance(value, str) for value in values):
            raise self.fail(key, "must be an array of strings")
        return values

    def tokens(self) -> list[str]:
        tokens = self.strings("tokens")
        if not tokens:
            raise self.fail("tokens", "is missing or empty")
        check_count(self.file, "tokenizer.ggml.tokens", len(tokens), MAX_VOCABULARY)
        # The library can't hold an empty token; llama.cpp gives them such names, too.
        return [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]

    def vocabulary(self, tokens: list[str]) -> dict[str, int]:
        vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
        if len(vocabulary) < len(tokens):
            i = next(i for i, token in enumerate(tokens) if vocabulary[token] != i)
            raise self.fail(f"tokens[{i}]", f"{tokens[i]!r} is also token {vocabulary[tokens[i]]}")
        return vocabulary

    def integers(self, key: str, count: int) -> list[int] | None:
        values = self.array(key)
        if values is None:
            return None
        if len(values) != count:
            raise self.fail(key, f"has {len(values)} entries for {count} tokens")
        if not all(isinstance(value, int) for value in values):
            raise self.fail(key, "must be an array of integers")
        return values

    def scores(self, count: int) -> list[float]:
        values = self.array("scores")
        if values is None or len(values) != count:
            raise self.fail("scores", f"has {len(values or [])} entries for {count} tokens")
        if not all(isinstance(value, float | int) for value in values):
            raise self.fail("scores", "must be an array of numbers")
        return [float(value) for value in values]

    def merges(self, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
        merges = []
        for i, line in enumerate(self.strings("merges") or []):
            cut = line.find(" ", 1)
            left, right = line[:cut], line[cut + 1 :]
            if cut < 0 or left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
                raise self.fail(f"merges[{i}]", f"{line!r} has a part or a result that is no token")
            merges.append((left, right))
        return merges

    def token_id(self, key: str, count: int) -> int | None:
        key = f"{key}_token_id"
        value = self.optional(int, key, -1)
        if self.metadata.get(f"tokenizer.ggml.{key}") is None or value == 0xFFFFFFFF:
            return None
        if not 0 <= value < count:
            raise self.fail(key, f"{value} is outside the vocabulary of {count} tokens")
        return value

    def chat_templates(self) -> dict[str, str]:
        """`tokenizer.chat_template`, and `tokenizer.chat_template.NAME` for others."""
        key, templates = "tokenizer.chat_template", {}
        for name, value in self.metadata.items():
            if name == key or name.startswith(f"{key}."):
                if not isinstance(value, str):
                    raise ModelLoadError(self.file, name, "must be a string")
                templates[name[len(key) + 1 :] or "default"] = value
        return templates
