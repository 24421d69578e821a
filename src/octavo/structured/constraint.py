"""What limits the tokens of one sequence, step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from octavo.errors import GrammarError
from octavo.structured.tokens import first_line

if TYPE_CHECKING:
    from llguidance import LLMatcher

Bits = np.ndarray[Any, np.dtype[np.uint32]]  # as in octavo.sampling.masks


class Constraint(Protocol):
    """Which tokens may come next in a sequence. It is asked where a step lands; then its mask is filled."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end may come."""

    @property
    def error(self) -> GrammarError | None:
        """Why there is no mask, after `fill` has left none."""

    def fill(self, row: Bits) -> None:
        """Sets the bits of the tokens that may come next in [words] of zeros. Never raises: see `error`."""

    def accept(self, token: int) -> None:
        """Notes the sequence's next token. Raises GrammarError where it may not come, or can't be followed."""

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as they are known."""


class GrammarConstraint:
    """A grammar's. With `forces`, a token that must come is the only one that its mask has."""

    def __init__(
        self,
        matcher: LLMatcher,
        where: str,
        num_tokens: int,
        *,
        forces: bool,
        end: int | None,
        avoided_ends: tuple[int, ...],
    ):
        """`where` names the field of the grammar, `num_tokens` is the size of the tokenizer's vocabulary.

        `end` is the token that ends what is complete; `avoided_ends` are possible only where nothing else is.
        """
        self._matcher, self._where, self._forces = matcher, where, forces
        self._end, self._avoided_ends = end, avoided_ends
        self._words = -(-num_tokens // 32)
        self._queue: deque[int] = deque()
        self.error: GrammarError | None = None
        self._look_ahead()

    @property
    def is_complete(self) -> bool:
        return not self._queue and self._matcher.is_stopped()

    def fill(self, row: Bits) -> None:
        try:
            self._fill(row)
        except Exception as error:
            row[:] = 0
            self.error = error if isinstance(error, GrammarError) else self._error(str(error))

    def accept(self, token: int) -> None:
        if self._queue and self._queue[0] == token:
            self._queue.popleft()
        if not self._matcher.consume_token(token):
            self._check()
        self._look_ahead()

    def forced(self) -> list[int]:
        return list(self._queue)

    def force(self, tokens: Sequence[int]) -> bool:
        """Makes these tokens the only ones that may come next; false if they may not."""
        if self._queue or self._matcher.validate_tokens(list(tokens)) < len(tokens):
            return False
        self._queue.extend(tokens)
        return True

    def _fill(self, row: Bits) -> None:
        only = self._queue[0] if self._queue else self._end if self._matcher.is_stopped() else None
        if only is not None:
            row[only >> 5] = _bit(only)
            return
        own = row[: self._words]
        self._matcher.unsafe_compute_mask_ptr(own.ctypes.data, own.nbytes)
        self._check()
        if self._avoided_ends:
            kept = row.copy()
            for token in self._avoided_ends:
                kept[token >> 5] &= ~_bit(token)
            row[:] = kept if kept.any() else row

    def _look_ahead(self) -> None:
        if self._forces and not self._queue and not self._matcher.is_stopped():
            self._queue.extend(self._matcher.compute_ff_tokens())
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._error(self._matcher.get_error())

    def _error(self, text: str) -> GrammarError:
        return GrammarError(self._where, f"can't be followed any more: {first_line(text)}")


def _bit(token: int) -> np.uint32:
    return np.uint32(1 << (token & 31))
