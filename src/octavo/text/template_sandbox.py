"""The Jinja environment of chat templates: what Hugging Face's expect, and limits on what they can do.

A template comes with a model, or even with a request, so it is hostile. The immutable sandbox keeps it away
from Python; the limits here keep it from eating time and memory: loop turns and calls are counted, and so are
the characters it makes, before they are made.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 500_000  # a second or two
MAX_NUMBER = 100_000  # for widths, counts and ranges
_DEEP = "string pprint sort unique groupby dictsort min max urlencode xmlattr"
_DEEP_FILTERS = frozenset(_DEEP.split())  # those that look at all that a value holds
_WIDE_FORMAT = re.compile(r"[%{:][^a-zA-Z%{}]*(?:\d{5}|\*)")


class LimitError(jinja2.TemplateError):
    """The template goes beyond a limit."""


class _Budget:
    """What is left to one rendering."""

    def __init__(self, max_chars: int):
        self.steps, self.max_chars, self.chars = MAX_STEPS, max_chars, 0


_budget: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def limited(max_chars: int) -> Iterator[None]:
    """Rendering inside this raises LimitError beyond texts of `max_chars` and beyond MAX_STEPS steps."""
    token = _budget.set(_Budget(max_chars))
    try:
        yield
    finally:
        _budget.reset(token)


def _spend(steps: int) -> None:
    budget = _budget.get()
    budget.steps -= steps
    if budget.steps < 0:
        raise LimitError(f"it takes more than {MAX_STEPS} steps")


def _check_size(size: int) -> None:
    if size > _budget.get().max_chars:
        raise LimitError(f"it makes a text or list of {size} items, more than {_budget.get().max_chars}")


def _check_number(value: Any, limit: int = MAX_NUMBER) -> None:
    if isinstance(value, int) and abs(value) > limit:
        raise LimitError(f"it uses a number above {limit}")


def _cost(values: Iterable[Any]) -> int:
    """Steps for one pass over the values, a few microseconds each."""
    sized = [value for value in values if isinstance(value, str | list | tuple | dict | range)]
    return 1 + sum(len(value) >> (10 if isinstance(value, str) else 3) for value in sized)


def _spend_on_tree(value: Any) -> None:
    """Pays for a walk over all that is in `value`: lists in lists, doubled many times over, are a bomb."""
    pending, chars = [value], 0
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            chars += len(item)
            _check_size(chars)
        elif isinstance(item, list | tuple | dict):
            _spend(1 + len(item))
            pending += item.values() if isinstance(item, dict) else item


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    _spend_on_tree(value)
    return str(value)


class ChatTemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with the helpers of Hugging Face's `apply_chat_template`. Use it inside `limited`."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        extensions = [_GenerationTag, jinja2.ext.loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters = {
            name: _bounded_filter(function, name in _DEEP_FILTERS) for name, function in self.filters.items()
        }
        del self.filters["urlize"], self.globals["lipsum"]
        self.filters |= {"tojson": _tojson, "join": _join, "replace": _replace, "format": _format}
        self.filters |= {
            "octavo_compared": _compared,
            "octavo_turns": _turns,
            "octavo_concat": _concat,
            "octavo_output": _output,
        }
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "range": _range,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Metered().visit(super()._parse(source, name, filename))
        return tree

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call of a template comes here."""
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        _spend(_cost((owner, *args)))
        for value in (*args, *kwargs.values()):
            _check_number(value)
        if isinstance(owner, str):
            if name in ("encode", "translate", "expandtabs"):
                raise LimitError(f"str.{name} is not allowed")
            if name == "replace" and len(args) >= 2:
                _check_replace(owner, args[0], args[1])
            elif name == "join" and args:
                args = (_checked_list(args[0], owner), *args[1:])
            elif name in ("format", "format_map"):
                _check_format(owner, (*args, *kwargs.values()))
        result = super().call(context, function, *args, **kwargs)
        if isinstance(result, str | list | tuple | dict):
            _check_size(len(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_format(left, right)
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _check_size(len(left) + len(right))
        elif operator in ("*", "**"):
            sequence, number = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(sequence, str | list | tuple) and isinstance(number, int):
                _check_size(len(sequence) * max(number, 0))
            limit = MAX_NUMBER if operator == "*" else 1000
            for value in (left, right):
                _check_number(value, limit)
        return super().call_binop(context, operator, left, right)


class _Metered(NodeTransformer):
    """Sends what is looped over, compared, joined by `~` or put out through filters that count."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node.iter, "octavo_turns")
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filter(node.expr, "octavo_compared")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "octavo_concat")

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            # A run of template text is a constant here, which compiles to the same text.
            _filter(
                nodes.Const(n.data, lineno=n.lineno) if isinstance(n, nodes.TemplateData) else n,
                "octavo_output",
            )
            for n in node.nodes
        ]
        return node


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says, for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# Filters that take the context can't be evaluated while compiling, where there is no budget.


@jinja2.pass_context
def _turns(_: Any, iterable: Any) -> Any:
    """The same iterable; its turns are paid for in advance, or one by one where it has no length."""
    if hasattr(iterable, "__len__"):
        _spend(len(iterable))
        return iterable
    return _paid(iterable)


def _paid(iterable: Iterable[Any]) -> Iterator[Any]:
    for item in iterable:
        _spend(1)
        yield item


@jinja2.pass_context
def _compared(_: Any, value: Any) -> Any:
    _spend_on_tree(value)
    return value


@jinja2.pass_context
def _output(_: Any, value: Any) -> Any:
    """Macros and `set` blocks collect output, so it is counted piece by piece."""
    text = _text(value)
    budget = _budget.get()
    budget.chars += len(text)
    # What a template captures it may put out again, hence a few times the size of one text.
    _check_size(budget.chars // 4)
    return text


@jinja2.pass_context
def _concat(_: Any, values: list[Any]) -> str:
    return "".join(_checked_list(values, ""))


def _checked_list(values: Iterable[Any], separator: str) -> list[str]:
    texts, size = [], 0
    for value in values:
        texts.append(_text(value))
        size += len(texts[-1]) + len(separator)
        _check_size(size)
    return texts


@jinja2.pass_eval_context
def _join(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(context.environment, attribute), value)
    return str(d).join(_checked_list(value, str(d)))


@jinja2.pass_context
def _replace(_: Any, s: Any, old: Any, new: Any, count: int | None = None) -> str:
    s, old, new = str(s), str(old), str(new)
    _check_replace(s, old, new)
    return str(s.replace(old, new, -1 if count is None else count))


@jinja2.pass_context
def _format(_: Any, value: Any, *args: Any, **kwargs: Any) -> str:
    _check_format(str(value), (*args, *kwargs.values()))
    return str(str(value) % (kwargs or args))


@jinja2.pass_context
def _tojson(
    _: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; models were trained on plain JSON."""
    width = len(indent) if isinstance(indent, str) else indent or 0
    if max(width, *map(len, separators or ("",))) > 64:
        raise LimitError("tojson indents by at most 64")
    _spend_on_tree(value)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    _check_size(len(text))
    return text


def _bounded_filter(function: Callable[..., Any], is_deep: bool) -> Callable[..., Any]:
    """Refuses huge numbers (`center`, `batch`, `indent` …) and texts that would multiply."""

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        _spend(_cost(values))
        if is_deep:
            _spend_on_tree(values)
        for value in values:
            _check_number(value)
        lengths = [len(value) for value in values if isinstance(value, str)]
        if len(lengths) > 1:
            _check_size(lengths[0] * max(lengths[1:]))
        return function(*args, **kwargs)

    return bounded


def _check_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _check_size(len(text) + text.count(old) * len(new))


def _check_format(pattern: str, values: Any) -> None:
    """Each value may be written at each place."""
    _check_size(len(pattern) + (pattern.count("%") + pattern.count("{")) * len(_text(values)))
    if _WIDE_FORMAT.search(pattern):
        raise LimitError("a format is wider than 9999")


def _range(*args: int) -> range:
    turns = range(*args)
    _check_number(len(turns))
    return turns


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern[:256])
