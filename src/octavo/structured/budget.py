"""A limit on how long a text thinks: after so many tokens, those that end the thinking are forced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from octavo.errors import GrammarError
from octavo.structured.constraint import Bits, Constraint, ConstraintMaker


@dataclass(frozen=True, slots=True, eq=False)
class ThinkingBudget:
    """At most `num_tokens` of thinking, in a text that may have to fit a grammar too: a prompt has it in its place.

    `begin` is the text that thinking begins with; None: the prompt has it. `end` ends it, in tokens `end_ids`.
    """

    num_tokens: int
    begin: bytes | None
    end: bytes
    end_ids: tuple[int, ...]
    token_bytes: Callable[[int], bytes]
    grammar: ConstraintMaker | None = None

    def constraint(
        self, *, forces: bool = True, end: int | None = None, avoided_ends: tuple[int, ...] = ()
    ) -> BudgetConstraint:
        """That of one sequence: see `octavo.structured.constraint.ConstraintMaker`."""
        inner = self.grammar
        of_grammar = None if inner is None else inner.constraint(forces=forces, end=end, avoided_ends=avoided_ends)
        return BudgetConstraint(self, of_grammar)


class BudgetConstraint:
    """Counts the tokens of thinking, and leaves the rest to the constraint of the grammar, if there is one."""

    def __init__(self, budget: ThinkingBudget, grammar: Constraint | None):
        self._budget, self._grammar = budget, grammar
        self._thinks, self._is_over = budget.begin is None, False
        self._tail = b""  # of the text, as long as the marks
        self._count = 0
        self._queue: deque[int] = deque()
        self._end_in_time()

    @property
    def is_complete(self) -> bool:
        return not self._queue and self._grammar is not None and self._grammar.is_complete

    @property
    def error(self) -> GrammarError | None:
        return None if self._grammar is None else self._grammar.error

    def fill(self, row: Bits) -> None:
        if self._queue:
            row[self._queue[0] >> 5] = np.uint32(1 << (self._queue[0] & 31))
        elif self._grammar is not None:
            self._grammar.fill(row)
        else:
            row[:] = np.uint32(0xFFFFFFFF)

    def accept(self, token: int) -> None:
        if self._queue and self._queue[0] == token:
            self._queue.popleft()
        if self._grammar is not None:
            self._grammar.accept(token)
        if not self._is_over:
            self._follow(token)

    def forced(self) -> list[int]:
        if self._queue or self._thinks or self._grammar is None:
            return list(self._queue)
        return self._grammar.forced()

    def _follow(self, token: int) -> None:
        """Looks for the marks. They may be spelled in any tokens."""
        mark = self._budget.end if self._thinks else self._budget.begin or b""
        self._tail += self._budget.token_bytes(token)
        found = mark in self._tail
        self._tail = b"" if found else self._tail[-len(mark) :]
        self._count += self._thinks
        if found and self._thinks:
            self._thinks, self._is_over = False, True
            self._queue.clear()
        elif found:
            self._thinks = True
        self._end_in_time()

    def _end_in_time(self) -> None:
        if self._thinks and not self._queue and self._count >= self._budget.num_tokens:
            self._queue.extend(self._budget.end_ids)
