"""What a chat template may use up: steps, time, memory, and the size and depth of what it makes.

Nothing can interrupt Python inside one operation, so all operations of a template are bounded before they begin, by
the sizes of what they work on, and between them `spend` looks at the clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from types import GeneratorType
from typing import Any

import jinja2
from jinja2.utils import Namespace

MAX_SECONDS = 1.0  # of the thread's own time, so that a busy machine refuses no template
MAX_STEPS = 500_000  # of up to a few microseconds each
MAX_BYTES = 256 << 20  # of all texts and lists that are made, though most of them are soon gone
MAX_NUMBER = 100_000  # for widths, counts and ranges
MAX_DEPTH = 100  # of lists in lists
_STEPS_BETWEEN_LOOKS = 256  # at the clock
_TEXT_OF_AN_ITEM = 56  # bytes of a short string, to which a list's entry points

clock = time.thread_time


class LimitError(jinja2.TemplateError):
    """The template goes beyond a limit."""


class _Budget:
    """What is left to one rendering."""

    def __init__(self, max_items: int):
        self.steps, self.next_look = MAX_STEPS, MAX_STEPS
        self.deadline = clock() + MAX_SECONDS
        self.bytes = MAX_BYTES
        self.max_items = max_items
        self.output = 4 * max_items  # what a template captures it may put out again


_budget: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def limited(max_items: int) -> Iterator[None]:
    """Rendering inside this raises LimitError beyond texts and lists of `max_items`, and beyond the limits above."""
    token = _budget.set(_Budget(max_items))
    try:
        yield
    finally:
        _budget.reset(token)


def spend(steps: int) -> None:
    """Pays for work that is about to be done."""
    budget = _budget.get()
    budget.steps -= steps
    if budget.steps < budget.next_look:
        budget.next_look = budget.steps - _STEPS_BETWEEN_LOOKS
        if budget.steps < 0:
            raise LimitError(f"it takes more than {MAX_STEPS} steps")
        if clock() > budget.deadline:
            raise LimitError(f"it takes more than {MAX_SECONDS:g} s")


def check_size(size: int) -> None:
    """Raises LimitError if a text or list is too long to be made."""
    if size > _budget.get().max_items:
        raise LimitError(f"it makes a text or list of {size} items, more than {_budget.get().max_items}")


def check_number(value: Any, limit: int = MAX_NUMBER) -> None:
    if isinstance(value, int) and abs(value) > limit:
        raise LimitError(f"it uses a number above {limit}")


def made(value: Any, bytes_per_item: int = 0) -> Any:
    """The value itself, paid for if it is a text or a list; what comes one by one is paid for when it comes."""
    if isinstance(value, GeneratorType):
        return paid(value)
    if isinstance(value, str | list | tuple | dict):
        check_size(len(value))
        budget = _budget.get()
        budget.bytes -= sys.getsizeof(value) + bytes_per_item * len(value)
        if budget.bytes < 0:
            raise LimitError(f"it makes texts and lists of more than {MAX_BYTES >> 20} MiB")
    return value


def made_anew(value: Any) -> Any:
    """Like `made`, for the result of a call or a filter: the items of a list may have been made with it."""
    if isinstance(value, Iterator) and not isinstance(value, jinja2.runtime.LoopContext):
        return paid(value)
    return made(value, _TEXT_OF_AN_ITEM if isinstance(value, list) else 0)


def paid(iterable: Iterable[Any]) -> Iterator[Any]:
    """The same items, each for a step."""
    for item in iterable:
        spend(1)
        yield item


def settled(value: Any) -> Any:
    """A list of what would come one by one, so that `walk` can see it; anything else as it is."""
    return made(list(value)) if isinstance(value, GeneratorType) else value


def walk(value: Any) -> None:
    """Pays for one pass over all that is in `value`, as comparing, hashing, sorting and printing do.

    Lists in lists, doubled many times over, are a bomb; very deep ones overflow the stack.
    """
    level, chars = [value], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                chars += len(item)
            elif isinstance(item, list | tuple | dict | KeysView | ValuesView | ItemsView):
                spend(1 + len(item))
                below += item
                if isinstance(item, dict):
                    below += item.values()
            elif isinstance(item, Namespace):
                raise LimitError("a namespace can't be printed, compared or passed on")
        check_size(chars)
        if not below:
            spend(chars >> 10)
            return
        level = below
    raise LimitError(f"it nests lists more than {MAX_DEPTH} deep")


def text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    walk(value)
    return str(value)


def texts_of(values: Iterable[Any], separator: str = "") -> list[str]:
    """The texts of all values, if they are not too long together."""
    texts, size = [], 0
    for value in values:
        texts.append(text_of(value))
        size += len(texts[-1]) + len(separator)
        check_size(size)
    spend(size >> 10)
    return texts


def put_out(value: Any) -> str:
    """The text of what the template writes. Macros and `set` blocks collect it, so it is counted piece by piece."""
    text = text_of(value)
    budget = _budget.get()
    budget.output -= len(text)
    if budget.output < 0:
        raise LimitError(f"it makes more than {budget.max_items} characters")
    spend(len(text) >> 10)
    made(text)
    return text
