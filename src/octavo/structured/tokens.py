"""A vocabulary as llguidance sees it: the bytes of each token, and which are special. Nothing of Octavo is imported."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

LIMITS: dict[str, Any] = {  # of llguidance; fuel is work that can be counted
    "initial_lexer_fuel": 2_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}


class TokenList:
    """What `llguidance.LLTokenizer` wants of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, tokens: list[bytes], special_token_ids: Sequence[int], eos_token_ids: Sequence[int]):
        """Without `eos_token_ids`, an end that no model has is added: there must be one."""
        self.tokens, self.special_token_ids = tokens, list(special_token_ids)
        self.eos_token_ids = list(eos_token_ids)
        if not eos_token_ids:
            self.eos_token_ids = [len(tokens)]
            self.special_token_ids.append(len(tokens))
            self.tokens = [*tokens, b"<end>"]
        self.eos_token_id, self.bos_token_id = self.eos_token_ids[0], None

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens that stand for this text: the longest at each place."""
        data = text.encode() if isinstance(text, str) else text
        ids, start = [], 0
        while start < len(data):
            lengths = range(min(self._longest, len(data) - start), 0, -1)
            found = next((length for length in lengths if data[start : start + length] in self._ids), None)
            if found is not None:
                ids.append(self._ids[data[start : start + found]])
            start += found or 1
        return ids

    def llguidance(self) -> LLTokenizer:
        """Takes some tenths of a second."""
        from llguidance import LLTokenizer

        return LLTokenizer(cast("TokenizerWrapper", self), eos_token=self.eos_token_ids)

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        special = set(self.special_token_ids)
        return {token: i for i, token in enumerate(self.tokens) if token and i not in special}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids))


def compile_lark(tokenizer: LLTokenizer, source: str) -> LLMatcher:
    """A matcher at the beginning of a text. Raises ValueError with the reason why the grammar can't be compiled."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(**LIMITS)
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(source), log_level=0, limits=limits)
    if matcher.is_error():
        raise ValueError(first_line(matcher.get_error()))
    return matcher


def first_line(text: str) -> str:
    """That of an error of llguidance: what comes after it is the grammar, or a trace."""
    return next((line for line in text.splitlines() if line.strip()), "llguidance gives no reason")[:300]
