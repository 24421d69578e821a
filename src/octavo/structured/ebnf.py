"""Grammars that users write."""

from __future__ import annotations

from octavo.errors import GrammarError
from octavo.structured.grammar import Grammar, nested

MAX_GRAMMAR = 1 << 20  # characters


def user_grammar(text: str, where: str) -> Grammar:
    """A grammar in llguidance's Lark, or in GBNF. Raises GrammarError for what is neither."""
    from llguidance.gbnf_to_lark import any_to_lark

    if len(text) > MAX_GRAMMAR:
        raise GrammarError(where, f"has {len(text)} characters; at most {MAX_GRAMMAR} are allowed")
    try:
        return nested(any_to_lark(text))
    except Exception as error:  # the library raises that itself
        raise GrammarError(where, f"is neither Lark with a rule `start` nor GBNF with a rule `root`: {error}") from None
