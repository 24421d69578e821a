"""A model's tokenizer as llguidance sees it."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.errors import PromptError
from octavo.structured.tokens import TokenList
from octavo.text.tokenizer import Tokenizer

_BEFORE = "="  # read before a text whose first word would get a space from the tokenizer


class Vocabulary(TokenList):
    """The tokens of a tokenizer of any kind; texts become tokens as the model would write them."""

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Sequence[int]):
        tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        super().__init__(tokens, sorted(tokenizer.special_ids), eos_token_ids)
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return self._encode(data.decode(errors="replace"), data) or super().__call__(data)

    def _encode(self, text: str, data: bytes) -> list[int] | None:
        """Tokens that stand for exactly this text, if the tokenizer gives them."""
        before = self._tokenizer.encode(_BEFORE, add_special_tokens=False)
        for prefix, skipped in (("", 0), (_BEFORE, len(before))):
            try:
                ids = self._tokenizer.encode(prefix + text, add_special_tokens=False)[skipped:]
            except PromptError:
                return None
            if b"".join([self.tokens[i] for i in ids]) == data:
                return ids
        return None
