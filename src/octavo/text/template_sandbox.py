"""The Jinja environment of chat templates: what Hugging Face's expect, inside the limits of `template_limits`.

A template comes with a model, or even with a request, so it is hostile. The immutable sandbox keeps it away from
Python. Filters and methods of strings are there if their cost is known, and everything that loops, walks or makes
something is counted.
"""

from __future__ import annotations

import functools
import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Set
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from octavo.text.template_limits import (
    MAX_NUMBER,
    LimitError,
    check_number,
    check_size,
    made,
    made_anew,
    paid,
    put_out,
    settled,
    spend,
    text_of,
    texts_of,
    walk,
)

# These take items as they are; all other filters look at everything that a value holds.
_SHALLOW_FILTERS = """
    attr batch d default count first items last length list map random reject rejectattr reverse select selectattr slice
"""
_DEEP_FILTERS = """
    abs capitalize center dictsort e escape float groupby int lower max min round safe sort string title truncate unique
    upper urlencode wordcount
"""
_WALKING_TESTS = "in == eq equalto != ne > gt greaterthan >= ge < lt lessthan <= le lower upper divisibleby"
_LINEAR_METHODS = """
    capitalize casefold center count endswith find format format_map index join ljust lower partition removeprefix
    removesuffix replace rjust split splitlines startswith swapcase title upper zfill
"""
# Searching from the end, and among many characters, may take the product of both lengths.
_QUADRATIC_METHODS = "lstrip rfind rindex rpartition rsplit rstrip strip"
MAX_TOKENS = 16384  # of a template; the longest that models came with have about 3,000
MAX_FORMAT = 4096
_WIDEST = 999
_WIDE = re.compile(r"\*|\d{4}")
_PERCENT_WIDE = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\d{0,3}\.)?(?:\*|\d{4})")


class ChatTemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with the helpers of Hugging Face's `apply_chat_template`. Use it inside `limited`."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        extensions = [_GenerationTag, jinja2.ext.loopcontrols]
        # What is constant waits for the rendering too: there is no budget while compiling.
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=extensions)
        self.filters = {
            **{name: _bounded(self.filters[name], is_deep=False) for name in _SHALLOW_FILTERS.split()},
            **{name: _bounded(self.filters[name], is_deep=True) for name in _DEEP_FILTERS.split()},
            "format": _format,
            "indent": _indent,
            "join": _join,
            "replace": _replace,
            "sum": _sum,
            "tojson": _tojson,
            "trim": _trim,
            "octavo_compared": _compared,
            "octavo_concat": _concat,
            "octavo_made": _made,
            "octavo_output": _output,
            "octavo_searched": _searched,
            "octavo_turns": paid,
        }
        self.tests |= {name: _bounded(self.tests[name], is_deep=True) for name in _WALKING_TESTS.split()}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now, "range": _range}

    def _tokenize(self, source: str, *args: Any, **kwargs: Any) -> TokenStream:
        stream = super()._tokenize(source, *args, **kwargs)
        return TokenStream(_few(stream), stream.name, stream.filename)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Metered().visit(super()._parse(source, name, filename))
        return tree

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):  # it will be hashed
            walk(argument)
        return super().getitem(obj, argument)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call of a template comes here."""
        spend(1)
        for value in (*args, *kwargs.values()):
            check_number(value)
        if not isinstance(function, Macro | LoopContext):  # those are the template's own code
            args = tuple(map(settled, args))
            walk((args, kwargs))
            method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
            owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
            if isinstance(owner, str):
                args = _checked_method(owner, name, args, kwargs)
            elif isinstance(owner, list | tuple):  # it is searched
                walk(owner)
        return made_anew(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, Set) or isinstance(right, Set):
            raise LimitError(f"{operator} takes numbers, texts and lists")
        if operator == "%" and isinstance(left, str):
            _check_percent(left, right)
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            check_size(len(left) + len(right))
        elif operator in ("*", "**"):
            sequence, number = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(sequence, str | list | tuple) and isinstance(number, int):
                check_size(len(sequence) * max(number, 0))
            limit = MAX_NUMBER if operator == "*" else 1000
            for value in (left, right):
                check_number(value, limit)
        return made(super().call_binop(context, operator, left, right))


class _Metered(NodeTransformer):
    """Sends what loops, compares, hashes, makes or puts out something through filters that count."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        match node:
            case nodes.For():
                node.iter = _filter(node.iter, "octavo_turns")
            case nodes.Compare():
                node.expr = _counted(node.expr, "octavo_compared")
            case nodes.Operand():
                node.expr = _counted(node.expr, "octavo_searched" if node.op in ("in", "notin") else "octavo_compared")
            case nodes.Pair():
                node.key = _counted(node.key, "octavo_compared")
            case nodes.Getitem(arg=nodes.Slice()) | nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
                return _filter(node, "octavo_made")
            case nodes.Concat():
                return _filter(nodes.List(node.nodes, lineno=node.lineno), "octavo_concat")
            case nodes.Output():
                node.nodes = [_filter(_constant(piece), "octavo_output") for piece in node.nodes]
        return node


def _constant(node: nodes.Expr) -> nodes.Expr:
    """A run of template text as a constant, which compiles to the same text; anything else as it is."""
    return nodes.Const(node.data, lineno=node.lineno) if isinstance(node, nodes.TemplateData) else node


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _counted(node: nodes.Expr, name: str) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _filter(node, name)


def _few(tokens: Iterable[Token]) -> Iterator[Token]:
    """The same tokens. What comes after them, the compiler's work, can't be interrupted, and is a tenth of a
    millisecond for each."""
    for count, token in enumerate(tokens):
        if count == MAX_TOKENS:
            raise LimitError(f"it has more than {MAX_TOKENS} tokens of code")
        yield token


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says, for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@jinja2.pass_context  # so that Jinja does not look for constants in what is put out
def _output(_: Any, value: Any) -> str:
    return put_out(value)


def _compared(value: Any) -> Any:
    walk(value)
    return value


def _searched(value: Any) -> Any:
    return _compared(settled(value))


def _made(value: Any) -> Any:
    spend(1)
    return made(value)


def _concat(values: list[Any]) -> Any:
    return made("".join(texts_of(values)))


@jinja2.pass_context
def _sum(context: Any, iterable: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    if attribute is not None:
        iterable = map(jinja2.filters.make_attrgetter(context.environment, attribute), iterable)
    return functools.reduce(functools.partial(context.environment.call_binop, context, "+"), paid(iterable), start)


@jinja2.pass_environment
def _join(environment: Any, value: Any, d: str = "", attribute: str | int | None = None) -> Any:
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(environment, attribute), value)
    return made(text_of(d).join(texts_of(paid(value), text_of(d))))


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> Any:
    s, old, new = text_of(s), text_of(old), text_of(new)
    _check_replace(s, old, new)
    return made(str(s.replace(old, new, -1 if count is None else count)))


def _trim(value: Any, chars: Any = None) -> Any:
    text = text_of(value)
    _checked_method(text, "strip", () if chars is None else (chars,), {})
    return made(text.strip(chars))


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
    s = text_of(s)
    check_number(width)
    lines = len(s.splitlines()) + 1
    spend(lines >> 3)
    check_size(len(s) + lines * (len(width) if isinstance(width, str) else width))
    return made(jinja2.filters.do_indent(s, width, first, blank))


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    pattern = text_of(value)
    _check_percent(pattern, kwargs or args)
    return made(str(pattern % (kwargs or args)))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> Any:
    """Jinja's own filter escapes HTML; models were trained on plain JSON."""
    width = len(indent) if isinstance(indent, str) else indent or 0
    if max(width, *map(len, separators or ("",))) > 64:
        raise LimitError("tojson indents by at most 64")
    value = _searched(value)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    # With an indent the text may be far longer than the value, so it is made piece by piece.
    return made(encoder.encode(value) if indent is None else "".join(texts_of(encoder.iterencode(value))))


def _bounded(function: Any, is_deep: bool) -> Callable[..., Any]:
    """A filter or test of Jinja, paid for; huge numbers (`center`, `batch` …) are refused."""

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        for value in values:
            check_number(value)
        if is_deep:
            args = tuple(map(settled, args))
            walk((args, kwargs))
        else:
            spend(1 + sum(len(value) >> 3 for value in values if isinstance(value, list | tuple | dict | range)))
        return made_anew(function(*args, **kwargs))

    return bounded


def _checked_method(owner: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments for a method of a string, once it is known that it does not take too much."""
    spend(len(owner) >> 10)
    if name in _QUADRATIC_METHODS.split():
        spend(max((len(value) for value in args if isinstance(value, str)), default=0) * len(owner) >> 10)
    elif name == "replace" and len(args) >= 2:
        _check_replace(owner, args[0], args[1])
    elif name == "join" and args:
        return (texts_of(args[0], owner), *args[1:])
    elif name in ("format", "format_map"):
        _check_braces(owner, (args, kwargs))
    elif name not in _LINEAR_METHODS.split() and not name.startswith("is"):
        raise LimitError(f"str.{name} is not allowed")
    return args


def _check_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        check_size(len(text) + text.count(old) * len(new))


def _check_percent(pattern: str, values: Any) -> None:
    _check_format(pattern, pattern.count("%"), values)
    if _PERCENT_WIDE.search(pattern):
        raise LimitError(f"a format is wider than {_WIDEST}")


def _check_braces(pattern: str, values: Any) -> None:
    _check_format(pattern, pattern.count("{"), values)
    for _, _, spec, _ in string.Formatter().parse(pattern):
        if spec and ("{" in spec or _WIDE.search(spec)):
            raise LimitError(f"a format is wider than {_WIDEST}")


def _check_format(pattern: str, places: int, values: Any) -> None:
    """Each value may be written at each place."""
    if len(pattern) > MAX_FORMAT:
        raise LimitError(f"a format has more than {MAX_FORMAT} characters")
    check_size(len(pattern) + places * (_WIDEST + len(text_of(values))))


def _range(*args: int) -> range:
    turns = range(*args)
    check_number(len(turns))
    return turns


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern[:256])
