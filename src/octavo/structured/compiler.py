"""Grammars compiled for one model, off its engine's thread, and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from octavo.errors import GrammarError
from octavo.structured.budget import BudgetedConstraint, ThinkingBudget
from octavo.structured.constraint import Constraint, GrammarConstraint
from octavo.structured.grammar import Grammar, SpecialTokens
from octavo.structured.rehearsal import Rehearsal
from octavo.structured.tokens import compile_lark
from octavo.structured.vocabulary import Vocabulary
from octavo.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SOURCE = 8 << 20  # bytes of a grammar
MAX_KEPT, MAX_KEPT_SOURCE = 64, 16 << 20  # compiled grammars, and bytes of what they were compiled from


@dataclass(frozen=True, slots=True, eq=False)
class CompiledGrammar:
    """A grammar for the tokens of one model. `where` names the field that it came from."""

    matcher: LLMatcher  # at the beginning of a text
    where: str
    num_tokens: int
    budget: ThinkingBudget | None = None

    def constraint(
        self, *, forces: bool = True, end: int | None = None, avoided_ends: tuple[int, ...] = ()
    ) -> Constraint:
        """That of one sequence: see `GrammarConstraint`. It shares with others what was found out about the grammar."""
        matcher = self.matcher.deep_copy()
        found = GrammarConstraint(
            matcher, self.where, self.num_tokens, forces=forces, end=end, avoided_ends=avoided_ends
        )
        return found if self.budget is None else BudgetedConstraint(found, self.budget)


class Grammars:
    """Compiles grammars for the tokens of one model. It can be used from several threads."""

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Sequence[int]):
        self._tokenizer, self._eos_token_ids = tokenizer, eos_token_ids
        self._lock = threading.Lock()  # one grammar is compiled at a time: a core is all that they get
        self._thread: ThreadPoolExecutor | None = None
        self._kept: OrderedDict[str, LLMatcher | str] = OrderedDict()  # or why there is none

    @cached_property
    def special_tokens(self) -> SpecialTokens:
        """The tokens that no text has, for `octavo.structured.grammar`."""
        ids = self._tokenizer.special_ids - set(self._eos_token_ids)
        return {self._tokenizer.added_tokens[i].content: i for i in sorted(ids)}

    def compile(self, grammar: Grammar, where: str) -> CompiledGrammar:
        """Waits for it, which takes milliseconds mostly, and seconds at most; the GIL is left to others.

        Raises GrammarError, which names `where`, for what is malformed, too large or too complex.
        """
        source = grammar.lark
        if len(source) > MAX_SOURCE:
            raise GrammarError(where, f"has {len(source)} characters; at most {MAX_SOURCE} are compiled")
        with self._lock:
            matcher = self._kept.pop(source, None) or self._compile(source)
            self._keep(source, matcher)
        if isinstance(matcher, str):
            raise GrammarError(where, f"can't be compiled: {matcher}")
        return CompiledGrammar(matcher, where, self._tokens.vocab_size)

    def later(self, make: Callable[[SpecialTokens], Grammar], where: str) -> Future[CompiledGrammar]:
        """Makes a grammar and compiles it on another thread, which is for that alone. Raises what these raise."""
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="octavo-grammars")
        return self._thread.submit(lambda: self.compile(make(self.special_tokens), where))

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._tokenizer, self._eos_token_ids)

    @cached_property
    def _tokens(self) -> LLTokenizer:
        return self._vocabulary.llguidance()

    @cached_property
    def _rehearsal(self) -> Rehearsal:
        return Rehearsal(self._vocabulary)

    def _compile(self, source: str) -> LLMatcher | str:
        if reason := self._rehearsal.why_not(source):
            return reason
        try:
            return compile_lark(self._tokens, source)
        except ValueError as error:
            return str(error)

    def _keep(self, source: str, matcher: LLMatcher | str) -> None:
        """As the newest; the oldest make room."""
        self._kept[source] = matcher
        while len(self._kept) > MAX_KEPT or sum(map(len, self._kept)) > MAX_KEPT_SOURCE:
            self._kept.popitem(last=False)
