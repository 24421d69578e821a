"""Reads SentencePiece's `tokenizer.model`, a protobuf message.

Read by hand, as a guard: a count or size that a file gives is compared with what remains before it is used.
The message is `ModelProto` of sentencepiece_model.proto in google/sentencepiece: 1 = pieces, 2 =
trainer_spec, 3 = normalizer_spec. A protobuf field is a varint key (number << 3 | wire type) and a value.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from octavo.errors import ModelLoadError
from octavo.text.rust_errors import loading

_UNIGRAM, _BPE = 1, 2


class PieceType(IntEnum):
    """What a piece is; GGUF's `tokenizer.ggml.token_type` has the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class SentencePieceModel:
    """Vocabulary and settings of a SentencePiece tokenizer; the lists are indexed by token id."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    is_bpe: bool
    unk_id: int = 0
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    byte_fallback: bool = True
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = False
    charsmap: bytes = b""

    def named_tokens(self) -> dict[str, str]:
        """The texts of the special tokens that the model numbers."""
        ids = {"unk": self.unk_id, "bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id}
        return {f"{name}_token": self.pieces[i] for name, i in ids.items() if i is not None}


def read_model(file: Path) -> SentencePieceModel:
    """Parses a tokenizer.model. Raises ModelLoadError if it is malformed, or neither BPE nor Unigram."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    with loading(file, "file"):
        data = file.read_bytes()
    for number, value in _fields(data, file):
        if number not in (1, 2, 3):
            continue
        if not isinstance(value, bytes):
            raise ModelLoadError(file, f"field {number}", "must be a message")
        if number == 1:
            pieces.append(_piece(dict(_fields(value, file)), file, len(pieces)))
        elif number == 2:
            trainer.update(_fields(value, file))
        else:
            normalizer.update(_fields(value, file))
    kind = _integer(trainer, 3, _UNIGRAM, file)
    if kind not in (_UNIGRAM, _BPE):
        raise ModelLoadError(file, "trainer_spec.model_type", f"{kind} is neither 1 (unigram) nor 2 (BPE)")
    if _integer(trainer, 24, 0, file):
        raise ModelLoadError(file, "trainer_spec.treat_whitespace_as_suffix", "is not supported")
    charsmap = normalizer.get(2, b"")
    if not isinstance(charsmap, bytes):
        raise ModelLoadError(file, "normalizer_spec.precompiled_charsmap", "must be bytes")
    texts, scores, types = (list(column) for column in zip(*pieces, strict=True)) if pieces else ([], [], [])

    def special_id(field: int, default: int) -> int | None:
        # An id outside the vocabulary means that there is none; trainers write -1.
        found = _integer(trainer, field, default, file)
        return found if 0 <= found < len(texts) else None

    unk_id = special_id(40, 0)
    if unk_id is None:
        raise ModelLoadError(file, "trainer_spec.unk_id", f"is outside the vocabulary of {len(texts)} pieces")
    return SentencePieceModel(
        texts,
        scores,
        types,
        is_bpe=kind == _BPE,
        unk_id=unk_id,
        bos_id=special_id(41, 1),
        eos_id=special_id(42, 2),
        pad_id=special_id(43, -1),
        byte_fallback=bool(_integer(trainer, 35, 0, file)),
        add_dummy_prefix=bool(_integer(normalizer, 3, 1, file)),
        remove_extra_whitespaces=bool(_integer(normalizer, 4, 1, file)),
        charsmap=charsmap,
    )


def _piece(fields: dict[int, int | bytes], file: Path, index: int) -> tuple[str, float, int]:
    name = f"pieces[{index}]"
    text, score = fields.get(1), fields.get(2, bytes(4))
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
        raise ModelLoadError(file, name, "must have a text and a float score")
    try:
        return text.decode(), struct.unpack("<f", score)[0], _integer(fields, 3, PieceType.NORMAL, file)
    except UnicodeDecodeError:
        raise ModelLoadError(file, name, "its text is not UTF-8") from None


def _integer(fields: dict[int, int | bytes], number: int, default: int, file: Path) -> int:
    """An int32, enum or bool field."""
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise ModelLoadError(file, f"field {number}", "must be an integer")
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(data: bytes, file: str | os.PathLike[str]) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: integers for varints, bytes for everything else."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position, file)
        match key & 7:
            case 0:
                value, position = _varint(data, position, file)
                yield key >> 3, value
                continue
            case 1:
                length = 8
            case 2:
                length, position = _varint(data, position, file)
            case 5:
                length = 4
            case wire_type:
                raise ModelLoadError(file, f"byte {position}", f"wire type {wire_type} is unknown")
        if length > len(data) - position:
            raise ModelLoadError(
                file, f"byte {position}", f"{length} bytes are announced, {len(data) - position} are left"
            )
        yield key >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int, file: str | os.PathLike[str]) -> tuple[int, int]:
    """(value, next position) of a base-128 number of at most 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ModelLoadError(file, f"byte {position}", "the file ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), position
    raise ModelLoadError(file, f"byte {position}", "a number has more than 64 bits")
