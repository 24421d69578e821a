"""A budget of tokens for thinking: what a model thinks is ended when it is used up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo.errors import GrammarError
from octavo.structured.constraint import Bits, GrammarConstraint


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """Thinking that has had `num_tokens` tokens is ended with its mark, `end`, which is `end_tokens`."""

    num_tokens: int
    begin: bytes  # what it begins with, unless `is_begun`
    is_begun: bool
    end: bytes
    end_tokens: tuple[int, ...]
    token_bytes: Callable[[int], bytes]


class BudgetedConstraint:
    """A grammar's constraint, with a budget for thinking. It is a Constraint."""

    def __init__(self, inner: GrammarConstraint, budget: ThinkingBudget):
        self._inner, self._budget = inner, budget
        self._is_thinking: bool | None = budget.is_begun or None  # None: its first mark may come
        self._text = b""  # as far as marks may be in it
        self._num_tokens = 0
        self._interrupt()

    @property
    def is_complete(self) -> bool:
        return self._inner.is_complete

    @property
    def error(self) -> GrammarError | None:
        return self._inner.error

    def fill(self, row: Bits) -> None:
        self._inner.fill(row)

    def forced(self) -> list[int]:
        return self._inner.forced()

    def accept(self, token: int) -> None:
        self._inner.accept(token)
        if self._is_thinking is False:
            return
        self._text += self._budget.token_bytes(token)
        if self._is_thinking is None:
            self._find_begin()
        else:
            self._num_tokens += 1
            self._find_end()
        self._interrupt()

    def _find_begin(self) -> None:
        begin, text = self._budget.begin, self._text.lstrip()
        if text.startswith(begin):
            self._is_thinking, self._text = True, b""
        elif not begin.startswith(text):
            self._is_thinking = False

    def _find_end(self) -> None:
        if self._budget.end in self._text:
            self._is_thinking = False
        self._text = self._text[-len(self._budget.end) :]

    def _interrupt(self) -> None:
        """Tries again after the next token where a character is not complete yet."""
        if self._is_thinking and self._num_tokens >= self._budget.num_tokens:
            self._is_thinking = not self._inner.force(self._budget.end_tokens)
