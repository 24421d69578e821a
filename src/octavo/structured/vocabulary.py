"""A tokenizer as llguidance sees it: the bytes of each token, which tokens are special, how bytes become tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

from octavo.errors import PromptError
from octavo.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer, TokenizerWrapper

_BEFORE = "="  # read before a text whose first word would get a space from the tokenizer


class Vocabulary:
    """What `llguidance.LLTokenizer` wants of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Sequence[int]):
        self._tokenizer = tokenizer
        self.eos_token_id = eos_token_ids[0] if eos_token_ids else tokenizer.vocab_size
        self.bos_token_id = tokenizer.bos_token_id
        self.special_token_ids = sorted(tokenizer.special_ids)
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        if not eos_token_ids:
            self.tokens.append(b"<end>")  # a token that no model has: an end must have a name
            self.special_token_ids.append(tokenizer.vocab_size)

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens that stand for exactly this text, as the model would write it if that is so."""
        data = text.encode() if isinstance(text, str) else text
        return self._encode(data.decode(errors="replace"), data) or self._greedy(data)

    def _encode(self, text: str, data: bytes) -> list[int] | None:
        before = self._tokenizer.encode(_BEFORE, add_special_tokens=False)
        for prefix, skipped in (("", 0), (_BEFORE, len(before))):
            try:
                ids = self._tokenizer.encode(prefix + text, add_special_tokens=False)[skipped:]
            except PromptError:
                return None
            if b"".join([self.tokens[i] for i in ids]) == data:
                return ids
        return None

    def _greedy(self, data: bytes) -> list[int]:
        """The longest token at each place."""
        ids, start = [], 0
        while start < len(data):
            lengths = range(min(self._longest, len(data) - start), 0, -1)
            found = next((length for length in lengths if data[start : start + length] in self._ids), None)
            if found is not None:
                ids.append(self._ids[data[start : start + found]])
            start += found or 1
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        special = set(self.special_token_ids)
        return {token: i for i, token in enumerate(self.tokens) if token and i not in special}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids))


def llguidance_tokenizer(tokenizer: Tokenizer, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """Takes some tenths of a second."""
    from llguidance import LLTokenizer

    vocabulary = Vocabulary(tokenizer, eos_token_ids)
    return LLTokenizer(cast("TokenizerWrapper", vocabulary), eos_token=list(eos_token_ids) or [vocabulary.eos_token_id])
