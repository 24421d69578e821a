"""Builds a Rust tokenizer from a SentencePiece vocabulary, like transformers' convert_slow_tokenizer.py."""

from __future__ import annotations

import math
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from octavo.errors import ModelLoadError
from octavo.text.rust_errors import loading
from octavo.text.sentencepiece_model import PieceType, SentencePieceModel
from octavo.text.tokenizer_limits import MAX_VOCABULARY, check_count, check_unique

_SPACE = "▁"
# Far below any path through normal pieces: a text that spells a control or byte piece must not become it.
# It still does if the vocabulary lacks one of its characters: the library puts "unknown" below every score.
_UNREACHABLE = -1e6
_MAX_CUTS = 1 << 27  # characters copied; a vocabulary of 260,000 pieces takes some 20 millions
_ADDED = (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.USER_DEFINED)


def build_backend(model: SentencePieceModel, file: str | os.PathLike[str], *, legacy: bool = True) -> Tokenizer:
    """The tokenizer of a SentencePiece model. Raises ModelLoadError if the vocabulary contradicts itself.

    `legacy`, as in tokenizer_config.json, puts the dummy prefix before each text between special tokens, as
    llama.cpp does too; otherwise only the very first text gets it.
    """
    vocabulary = _vocabulary(model, file)
    with loading(file, "vocabulary"):
        backend = Tokenizer(_bpe(model, vocabulary) if model.is_bpe else _unigram(model))
        backend.normalizer = _normalizer(model, prefix=legacy and model.add_dummy_prefix)
        if model.add_dummy_prefix and not legacy:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False)
        steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if model.add_dummy_prefix:
            steps.append(decoders.Strip(content=" ", left=1, right=0))
        backend.decoder = decoders.Sequence(steps)
        backend.add_tokens(
            [
                AddedToken(piece, normalized=False, special=kind != PieceType.USER_DEFINED)
                for piece, kind in zip(model.pieces, model.types, strict=True)
                if kind in _ADDED
            ]
        )
    return backend


def _vocabulary(model: SentencePieceModel, file: str | os.PathLike[str]) -> dict[str, int]:
    check_count(file, "pieces", len(model.pieces), MAX_VOCABULARY)
    check_count(file, "added pieces", sum(kind in _ADDED for kind in model.types))
    if sum(len(piece) ** 2 for piece in model.pieces) > _MAX_CUTS:
        raise ModelLoadError(file, "pieces", "are too long together: each is cut in two at all of its characters")
    vocabulary = check_unique(model.pieces, file, "tokens")
    if "" in vocabulary:
        raise ModelLoadError(file, f"tokens[{vocabulary['']}]", "is empty")
    if not all(map(math.isfinite, model.scores)):
        raise ModelLoadError(file, "scores", "must be finite")
    return vocabulary


def _bpe(model: SentencePieceModel, vocabulary: dict[str, int]) -> models.BPE:
    return models.BPE(
        vocab=vocabulary,
        merges=_merges(model),
        unk_token=model.pieces[model.unk_id],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """SentencePiece merges the neighbours whose union has the best score, so each way to cut a piece is one
    merge.

    Only pieces that text can produce take part: control, unknown and byte pieces are out of its reach.
    """
    reachable = (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED)
    scores = {
        piece: score
        for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True)
        if kind in reachable
    }
    ranked = sorted((piece for piece in scores if len(piece) > 1), key=lambda piece: -scores[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def _unigram(model: SentencePieceModel) -> models.Unigram:
    reachable = (PieceType.NORMAL, PieceType.USER_DEFINED)
    vocab = [
        (piece, score if kind in reachable else _UNREACHABLE)
        for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True)
    ]
    return models.Unigram(vocab, unk_id=model.unk_id, byte_fallback=model.byte_fallback)


def _normalizer(model: SentencePieceModel, *, prefix: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
