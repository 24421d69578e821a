"""Ids of calls."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable

from octavo.chat_formats.syntax import CallFormat

_LETTERS = string.ascii_letters + string.digits


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


# How an id is made of the number of a call and the name of its tool.
KINDS: dict[str, Callable[[int, str], str]] = {
    "call": lambda number, name: f"call_{_random(24)}",
    "nine": lambda number, name: _random(9),  # as templates of Mistral demand them
    "functions": lambda number, name: f"functions.{name}:{number}",  # as Kimi K2 writes them
}


def id_maker(calls: CallFormat) -> Callable[[int, str, str | None], str]:
    """What makes the ids of an answer. None comes twice, also where the model writes them itself."""
    used: set[str] = set()
    fresh = KINDS[calls.id]

    def new_id(number: int, name: str, written: str | None) -> str:
        id = written if written and written not in used else fresh(number, name)
        while id in used:
            id = KINDS["call"](number, name)
        used.add(id)
        return id

    return new_id
