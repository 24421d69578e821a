"""Grammars of arguments that are not one JSON object: parameters between marks, and those of a call in Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from octavo.chat_formats.syntax import PythonCall, XmlCall
from octavo.chat_formats.values import NOTES, TEXT_AS_JSON, Written, how_written, resolved
from octavo.errors import GrammarError
from octavo.structured.grammar import (
    Grammar,
    SpecialTokens,
    choice,
    either,
    literal,
    repeated,
    rule,
    sequence,
    text_before,
)
from octavo.structured.schema import json_schema

_KNOWN = {"type", "properties", "required", "additionalProperties", *NOTES}
_KEY = re.compile(r"[\w.$@-]+")
_PYTHON_KEY = re.compile(r"[\w.-]+", re.ASCII)


def _parameters(schema: Mapping[str, Any], where: str, keys: re.Pattern[str]) -> dict[str, tuple[Any, bool]]:
    """The schema of each parameter and whether it is required, in their order. Raises GrammarError."""
    for keyword in schema:
        if keyword not in _KNOWN:
            reason = "can't be honoured: this model writes each argument by itself"
            raise GrammarError(f"{where}.{keyword}", reason)
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping):
        raise GrammarError(f"{where}.properties", "must be an object")
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise GrammarError(f"{where}.required", "must be a list of names")
    if missing := next((name for name in required if name not in properties), None):
        raise GrammarError(f"{where}.required", f"names {missing[:80]!r}, which is no property")
    if strange := next((name for name in properties if not keys.fullmatch(name)), None):
        raise GrammarError(f"{where}.properties", f"{strange[:80]!r} can't be written by this model as a name")
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {
        name: ({**each, **definitions} if isinstance(each, Mapping) else each, name in required)
        for name, each in properties.items()
    }


def xml_arguments(syntax: XmlCall, schema: Mapping[str, Any], where: str, special: SpecialTokens) -> Grammar:
    """Parameters between marks, one after the other. Raises GrammarError."""
    written = []
    for name, (each, is_required) in _parameters(schema, where, _KEY).items():
        head = literal(syntax.key_begin + name + syntax.key_end, special)
        parameter = sequence(head, _xml_value(syntax, each, f"{where}.properties.{name}", special))
        written.append(parameter if is_required else repeated(parameter, 0, 1))
    return sequence(*written) if written else literal("")


def _xml_value(syntax: XmlCall, schema: Any, where: str, special: SpecialTokens) -> Grammar:
    """A value between its marks, as it is read."""
    begin = literal(syntax.value_begin, special)
    text_begin = literal(syntax.text_begin, special) if syntax.text_begin is not None else begin
    end = literal(syntax.value_end, special)
    mark = syntax.value_end.strip()
    behind = literal(syntax.value_end[syntax.value_end.index(mark) + len(mark) :], special)
    as_json = sequence(begin, json_schema(schema, where), end)
    match how_written(resolved(schema, schema)):
        case Written.TEXT:
            return sequence(text_begin, text_before(mark, special), behind)
        case Written.CHOICE:
            resolved_schema = resolved(schema, schema)
            texts = resolved_schema.get("enum", [resolved_schema.get("const")])
            return sequence(text_begin, choice(texts), end)
        case Written.EITHER if syntax.text_begin is None:
            plain = sequence(begin, text_before(mark, special, unlike=TEXT_AS_JSON), behind)
            return either(plain, as_json)
        case Written.EITHER:
            return either(sequence(text_begin, text_before(mark, special), behind), as_json)
        case Written.JSON:
            return as_json


def python_arguments(syntax: PythonCall, schema: Mapping[str, Any], where: str, special: SpecialTokens) -> Grammar:
    """`a=1, b="x"`. Raises GrammarError."""
    between = ", " if syntax.quote is None else ","
    rest: Grammar | None = None  # what may come behind the parameters before, with what separates it from them
    alone = literal("")  # what may come where none is before
    for name, (each, is_required) in reversed(_parameters(schema, where, _PYTHON_KEY).items()):
        head = literal(name + syntax.assign)
        one = sequence(head, _python_value(syntax, each, f"{where}.properties.{name}", special))
        first = rule(one if rest is None else sequence(one, rest))
        follows = sequence(literal(between), first)
        if is_required:
            alone, rest = first, follows
        else:
            alone = rule(either(first, alone))
            rest = rule(either(follows, literal("") if rest is None else rest))
    return alone


def _python_value(syntax: PythonCall, schema: Any, where: str, special: SpecialTokens) -> Grammar:
    found = resolved(schema, schema)
    if syntax.quote is not None and how_written(found) in (Written.TEXT, Written.EITHER):
        quoted = sequence(literal(syntax.quote, special), text_before(syntax.quote, special))
        return quoted if how_written(found) is Written.TEXT else either(quoted, json_schema(schema, where))
    is_boolean = isinstance(found, Mapping) and set(found) - NOTES == {"type"} and found["type"] == "boolean"
    return choice(["True", "False"]) if is_boolean and syntax.quote is None else json_schema(schema, where)
