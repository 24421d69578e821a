"""The bytes that each token stands for, where a decoder works token by token.

Two families of decoders do, and nearly all language models use one of them:

- ByteLevel (GPT-2, Llama 3, Qwen): a token's characters are bytes in disguise.
- The SentencePiece chain (Llama 2, Mistral, Gemma): `▁` is a space, `<0xE2>` is a byte, and a space at the
  very start may be dropped.

For these a text is the bytes of its tokens, joined and read as UTF-8: it can be read piece by piece, too.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any

import tokenizers

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PER_BYTE = "octavo.replace_each_byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """One U+FFFD for each bad byte, as in SentencePiece; "replace" gives one for each bad sequence."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_PER_BYTE, _replace_each_byte)


def byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 stands for itself, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class TokenBytes(dict[int, bytes]):
    """Token id → bytes, filled as tokens are met. Ids outside the vocabulary have none and are not kept."""

    def __init__(self, backend: tokenizers.Tokenizer, replacements: list[tuple[str, str]], byte_fallback: bool):
        super().__init__()
        self._backend, self._replacements, self._byte_fallback = backend, replacements, byte_fallback

    def __missing__(self, token_id: int) -> bytes:
        try:
            token = self._backend.id_to_token(token_id)
        except OverflowError:  # negative, or above 32 bits
            token = None
        if token is None:
            return b""
        self[token_id] = self._to_bytes(token)
        return self[token_id]

    def _to_bytes(self, token: str) -> bytes:
        for old, new in self._replacements:
            token = token.replace(old, new)
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return token.encode()


class _ByteLevelBytes(TokenBytes):
    """A token with a character outside the alphabet, mostly an added one, is literal, as in the library."""

    _ALPHABET = byte_alphabet()

    def _to_bytes(self, token: str) -> bytes:
        try:
            return bytes(self._ALPHABET[char] for char in token)
        except KeyError:
            return token.encode()


@dataclass(frozen=True)
class ByteDecoding:
    """A decoder as bytes per token. `errors` is how bad UTF-8 is replaced.

    `strip_first_space` drops one space at the start of a whole text.
    """

    table: TokenBytes
    errors: str
    strip_first_space: bool


def byte_decoding(backend: tokenizers.Tokenizer) -> ByteDecoding | None:
    """The decoder of `backend` as bytes per token, or None if it does not work that way.

    It differs from the library for byte tokens that are not UTF-8: there, one bad byte turns its whole run of
    byte tokens into U+FFFD, the good characters before it too, which can't be streamed. Here only the bad
    bytes are replaced, as in SentencePiece itself.
    """
    if backend.decoder is None:
        return None
    state = json.loads(backend.decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return ByteDecoding(_ByteLevelBytes(backend, [], False), "replace", False)
    if not re.fullmatch(r"(Replace )*(ByteFallback )?(Fuse (Strip )?)?", "".join(f"{kind} " for kind in kinds)):
        return None
    replacements = [_literal_replacement(step) for step in steps if step["type"] == "Replace"]
    strip = steps[-1] if steps and kinds[-1] == "Strip" else None
    if None in replacements or (strip and (strip["content"], strip["start"], strip["stop"]) != (" ", 1, 0)):
        return None
    table = TokenBytes(backend, [pair for pair in replacements if pair], "ByteFallback" in kinds)
    return ByteDecoding(table, _PER_BYTE, strip is not None)


def _literal_replacement(step: dict[str, Any]) -> tuple[str, str] | None:
    pattern = step["pattern"].get("String")
    return None if pattern is None else (pattern, step["content"])
