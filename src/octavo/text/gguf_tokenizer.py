"""Builds the tokenizer that GGUF metadata describe: `tokenizer.ggml.*` in ggml's docs/gguf.md."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from octavo.errors import ModelLoadError
from octavo.text.pre_tokenizers import PRE_TOKENIZATIONS, RAW_KINDS
from octavo.text.rust_errors import loading
from octavo.text.sentencepiece_backend import build_backend
from octavo.text.sentencepiece_model import PieceType, SentencePieceModel
from octavo.text.tokenizer import Tokenizer
from octavo.text.tokenizer_limits import MAX_VOCABULARY, check_count, check_unique
from octavo.weights.config_reader import ConfigReader

_PREFIX = "tokenizer.ggml."
_MODELS = ("gpt2", "llama", "t5", "gemma4", "bert")
_IDS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# Of WordPiece: the key, and the text of the token where files leave it out.
_WORD_PIECE_IDS = {
    "cls_token": ("cls", "[CLS]"),
    "sep_token": ("seperator", "[SEP]"),  # as the format spells it
    "unk_token": ("unknown", "[UNK]"),
    "pad_token": ("padding", "[PAD]"),
    "mask_token": ("mask", "[MASK]"),
}
_CAPITAL_WORD = re.compile("[A-Z][a-z]+")
_ITEMS: dict[str, Any] = {"strings": str, "integers": int, "numbers": int | float}


def read_gguf_tokenizer(metadata: Mapping[str, Any], file: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a GGUF file. Arrays may be lists or NumPy arrays.

    Raises ModelLoadError for what is missing, malformed or of an unknown kind.
    """
    reader = _Reader(metadata, file)
    tokens = reader.tokens()
    has_types = reader.values.get("token_type") is not None
    types = reader.array("token_type", "integers", len(tokens)) if has_types else [PieceType.NORMAL] * len(tokens)
    ids = {name: reader.token_id(f"{key}_token_id", len(tokens)) for name, key in _IDS.items()}
    vocabulary = check_unique(tokens, file, "tokenizer.ggml.tokens")
    add_bos: bool | None
    add_eos: bool | None
    match reader.text("model"):
        case "gemma4":
            backend = _raw(reader, vocabulary, types, ids)
            add_bos, add_eos = True, False
        case "gpt2" if reader.values.get("pre") in RAW_KINDS:
            backend = _raw(reader, vocabulary, types, ids)
            add_bos = add_eos = False
        case "gpt2":
            backend, add_bos = _byte_level(reader, vocabulary, types, ids)
            add_eos = False
        case "llama" | "t5" as kind:
            backend = _sentencepiece(reader, kind, tokens, types, ids)
            add_bos, add_eos = kind == "llama", kind == "t5"
        case "bert":
            found = reader.word_piece_ids(vocabulary)
            backend, tokens = _word_piece(reader, tokens, types, found)
            ids = {**found}
            add_bos = add_eos = None  # the post-processor decides
        case other:
            raise reader.fail("model", f"{other!r} is not one of {', '.join(_MODELS)}")
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise ModelLoadError(file, "tokenizer.chat_template", "must be a string")
    named = {name: tokens[i] for name, i in ids.items() if i is not None}
    add_bos = None if add_bos is None else reader.flag("add_bos_token", add_bos)
    add_eos = None if add_eos is None else reader.flag("add_eos_token", add_eos)
    begin, end = ids.get("bos_token"), ids.get("eos_token")
    if add_bos and add_eos and begin is not None and end is not None:
        ends = (tokens[end], end), (tokens[begin], begin)
        twice = reader.flag("add_sep_token")  # an end stands twice between the texts of a pair, as in RoBERTa
        backend.post_processor = (processors.RobertaProcessing if twice else processors.BertProcessing)(*ends)
        add_bos = add_eos = None
    return Tokenizer(backend, named, add_bos, add_eos, template)


def _byte_level(
    reader: _Reader, vocabulary: dict[str, int], types: list[int], ids: Mapping[str, int | None]
) -> tuple[tokenizers.Tokenizer, bool]:
    """(tokenizer, whether BOS is added unless the file says otherwise)."""
    pre = reader.text("pre", "default")
    if pre not in PRE_TOKENIZATIONS:
        raise reader.fail("pre", f"{pre!r} is not one of {', '.join(sorted([*PRE_TOKENIZATIONS, *RAW_KINDS]))}")
    kind = PRE_TOKENIZATIONS[pre]()
    merges = reader.merges(vocabulary)
    with loading(reader.file, "tokenizer.ggml.merges"):
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=kind.ignore_merges))
    backend.pre_tokenizer, backend.normalizer = kind.pre_tokenizer, kind.normalizer
    backend.decoder = decoders.ByteLevel()
    _add_tokens(backend, reader, vocabulary, types, ids)
    return backend, kind.add_bos


def _raw(
    reader: _Reader, vocabulary: dict[str, int], types: list[int], ids: Mapping[str, int | None]
) -> tokenizers.Tokenizer:
    """A BPE over text, as Gemma 4 has it: ▁ for spaces, and tokens of single bytes for what no other token has."""
    merges = reader.merges(vocabulary)
    unknown = next((token for token, i in vocabulary.items() if i == ids["unk_token"]), None)
    with loading(reader.file, "tokenizer.ggml.merges"):
        model = models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
        backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _add_tokens(backend, reader, vocabulary, types, ids)
    return backend


def _add_tokens(
    backend: tokenizers.Tokenizer,
    reader: _Reader,
    vocabulary: dict[str, int],
    types: list[int],
    ids: Mapping[str, int | None],
) -> None:
    special = (PieceType.UNKNOWN, PieceType.CONTROL)
    named = set(ids.values())
    added = [
        AddedToken(token, normalized=False, special=kind in special or i in named)
        for i, (token, kind) in enumerate(zip(vocabulary, types, strict=True))
        if kind in (*special, PieceType.USER_DEFINED)
    ]
    check_count(reader.file, "tokenizer.ggml.token_type", len(added))
    backend.add_tokens(added)


def _sentencepiece(
    reader: _Reader, kind: str, tokens: list[str], types: list[int], ids: Mapping[str, int | None]
) -> tokenizers.Tokenizer:
    charsmap = reader.array("precompiled_charsmap", "integers")
    if not all(-128 <= value < 256 for value in charsmap):
        raise reader.fail("precompiled_charsmap", "must be bytes")
    unk_id = ids["unk_token"]
    if unk_id is None:
        unk_id = next((i for i, piece in enumerate(types) if piece == PieceType.UNKNOWN), 0)
    model = SentencePieceModel(
        tokens,
        list(map(float, reader.array("scores", "numbers", len(tokens)))),
        types,
        is_bpe=kind == "llama",
        unk_id=unk_id,
        byte_fallback=PieceType.BYTE in types,
        add_dummy_prefix=reader.flag("add_space_prefix", True),
        remove_extra_whitespaces=reader.flag("remove_extra_whitespaces"),
        charsmap=bytes(value & 0xFF for value in charsmap),
    )
    return build_backend(model, reader.file)


def _word_piece(
    reader: _Reader, tokens: list[str], types: list[int], ids: Mapping[str, int]
) -> tuple[tokenizers.Tokenizer, list[str]]:
    """(tokenizer, tokens as BERT spells them): files have ▁ before what begins a word, BERT ## before what does not.

    Where a file does not say whether texts become lower case, they do unless tokens have capitals.
    """
    is_special = [kind == PieceType.CONTROL or i in ids.values() for i, kind in enumerate(types)]
    tokens = [
        token if special else token[1:] if token[0] == "▁" != token else f"##{token}"
        for token, special in zip(tokens, is_special, strict=True)
    ]
    vocabulary = check_unique(tokens, reader.file, "tokenizer.ggml.tokens")
    normal = (token for token, kind in zip(tokens, types, strict=True) if kind == PieceType.NORMAL)
    has_capitals = any(_CAPITAL_WORD.fullmatch(token) for token in normal)
    lowers = reader.flag("normalizer.lowercase", not has_capitals)
    strips = reader.flag("normalizer.strip_accents", lowers)
    with loading(reader.file, "tokenizer.ggml.tokens"):
        backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=tokens[ids["unk_token"]]))
    backend.normalizer = normalizers.BertNormalizer(strip_accents=strips, lowercase=lowers)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = ((tokens[i], i) for i in (ids["cls_token"], ids["sep_token"]))
    backend.post_processor = processors.BertProcessing(sep, cls)
    backend.decoder = decoders.WordPiece()
    added = [token for token, special in zip(tokens, is_special, strict=True) if special]
    check_count(reader.file, "tokenizer.ggml.token_type", len(added))
    backend.add_tokens([AddedToken(token, normalized=False, special=True) for token in added])
    return backend, tokens


class _Reader(ConfigReader):
    """Typed access to `tokenizer.ggml.*`; whatever is not as expected is a ModelLoadError."""

    def __init__(self, metadata: Mapping[str, Any], file: str | os.PathLike[str]):
        values = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
        plain = {
            key: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
            for key, value in values.items()
        }
        super().__init__(plain, lambda field, reason: ModelLoadError(file, _PREFIX + field, reason))
        self.file = file

    def array(self, key: str, what: str, count: int | None = None) -> list[Any]:
        """An array of strings, integers or numbers, empty if there is none; of `count` entries, if that is given."""
        values = self.values.get(key)
        values = [] if values is None else values
        if not isinstance(values, list) or not all(isinstance(value, _ITEMS[what]) for value in values):
            raise self.fail(key, f"must be an array of {what}")
        if count is not None and len(values) != count:
            raise self.fail(key, f"has {len(values)} entries for {count} tokens")
        return values

    def tokens(self) -> list[str]:
        tokens = self.array("tokens", "strings")
        if not tokens:
            raise self.fail("tokens", "is missing or empty")
        check_count(self.file, "tokenizer.ggml.tokens", len(tokens), MAX_VOCABULARY)
        # The library can't hold an empty token; llama.cpp gives them such names, too.
        return [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]

    def merges(self, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
        if self.values.get("merges") is None:
            raise self.fail("merges", "is missing: without it, words would be cut into bytes")
        merges = []
        for i, line in enumerate(self.array("merges", "strings")):
            cut = line.find(" ", 1)
            left, right = line[:cut], line[cut + 1 :]
            if cut < 0 or left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
                raise self.fail(f"merges[{i}]", f"{line!r} has a part or a result that is no token")
            merges.append((left, right))
        return merges

    def word_piece_ids(self, vocabulary: Mapping[str, int]) -> dict[str, int]:
        """The ids of special tokens, by Hugging Face's names of them. Raises ModelLoadError for one that is missing."""
        found = {}
        for name, (key, text) in _WORD_PIECE_IDS.items():
            said = self.token_id(f"{key}_token_id", len(vocabulary))
            found[name] = vocabulary.get(text) if said is None else said
        if found["cls_token"] is None:
            found["cls_token"] = self.token_id("bos_token_id", len(vocabulary))
        for name in ("cls_token", "sep_token", "unk_token"):
            if found[name] is None:
                raise self.fail(f"{_WORD_PIECE_IDS[name][0]}_token_id", "is missing")
        return {name: i for name, i in found.items() if i is not None}

    def token_id(self, key: str, count: int) -> int | None:
        if self.values.get(key) in (None, 0xFFFFFFFF):
            return None
        return self.integer(key, low=0, high=count - 1)
