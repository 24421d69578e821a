"""Turns tokens into text as they are generated."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence

from octavo.text.token_bytes import ByteDecoding
from octavo.text.tokenizer import Tokenizer

# Longer than any character; a token that still decodes to U+FFFD then really means U+FFFD.
_MAX_HELD = 16


class IncrementalDetokenizer:
    """Streams the text of one output.

    All pieces, with `flush()` at the end, are the output's text as it continues the prompt: that is
    `tokenizer.decode(output_ids)`, except that its first space is kept where the prompt has text.

    No piece ends inside a character: such bytes wait for the rest. U+FFFD appears only for bytes that are not
    UTF-8. The time per token does not depend on the length of the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ):
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._stream: _ByteStream | _WindowStream
        if tokenizer.byte_decoding is not None:
            table = tokenizer.byte_decoding.table
            prompt_has_text = any(table[i] for i in prompt_token_ids if i not in self._skipped)
            self._stream = _ByteStream(tokenizer.byte_decoding, prompt_has_text)
        else:
            last = next((i for i in reversed(prompt_token_ids) if i not in self._skipped), None)
            context = [] if last is None else [last]
            self._stream = _WindowStream(tokenizer, context, spaces_between_special_tokens)

    def append(self, token_id: int) -> str:
        """The text that is final with this token, often empty inside a character."""
        return "" if token_id in self._skipped else self._stream.append(token_id)

    def flush(self) -> str:
        """The rest of the text, when no more tokens come: U+FFFD for a character that was never completed."""
        return self._stream.flush()


class _ByteStream:
    """Reads the tokens' bytes as UTF-8."""

    __slots__ = ("_errors", "_held", "_strip_first_space", "_table")

    def __init__(self, decoding: ByteDecoding, prompt_has_text: bool):
        self._table, self._errors = decoding.table, decoding.errors
        self._held = b""  # of a character that is not complete
        self._strip_first_space = decoding.strip_first_space and not prompt_has_text

    def append(self, token_id: int) -> str:
        return self._decode(self._table[token_id], final=False)

    def flush(self) -> str:
        return self._decode(b"", final=True)

    def _decode(self, new: bytes, final: bool) -> str:
        data = self._held + new
        text, num_read = utf_8_decode(data, self._errors, final)
        self._held = data[num_read:]
        if self._strip_first_space and text:
            self._strip_first_space = False
            return text.removeprefix(" ")
        return text


class _WindowStream:
    """Serves decoders that look at neighbours: decodes the last tokens with and without the new ones.

    `_context` are the tokens whose text came last; they give the new ones their surroundings.
    """

    def __init__(self, tokenizer: Tokenizer, context: list[int], spaces_between_special_tokens: bool):
        self._tokenizer = tokenizer
        self._spaces_between = spaces_between_special_tokens
        self._context = context
        self._held: list[int] = []

    def append(self, token_id: int) -> str:
        self._held.append(token_id)
        return self._take(final=len(self._held) > _MAX_HELD)

    def flush(self) -> str:
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        before = self._decode(self._context)
        text = self._decode(self._context + self._held)
        if not final and (text.endswith("\ufffd") or len(text) <= len(before)):
            return ""
        # The new ones' neighbour is the last token that has text.
        self._context = self._held if len(text) > len(before) else self._context or self._held
        self._held = []
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=False, spaces_between_special_tokens=self._spaces_between
        )
