"""Values of arguments that are not written as JSON: texts as they are, and Python's literals."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from octavo.chat_formats.cursor import MAX_DEPTH, MAX_DIGITS, Cursor, MalformedError, Parser

_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+]?[0-9]+)?")
_CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_CODES = {"x": 2, "u": 4, "U": 8}
_JSON_START = re.compile(r"[-0-9\[{\"]|(true|false|null)\Z")


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def is_text(schema: Any) -> bool:
    """Whether a value of this schema may be a text."""
    if not isinstance(schema, Mapping):
        return True
    for name in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(name), list):
            return any(map(is_text, branches))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return isinstance(values, list) and any(isinstance(value, str) for value in values)
    kind = schema.get("type", "string")
    return "string" in kind if isinstance(kind, list) else bool(kind == "string")


def is_only_text(schema: Any) -> bool:
    """Whether every value of this schema is a text."""
    if not isinstance(schema, Mapping):
        return False
    for name in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(name), list):
            return all(map(is_only_text, branches))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return isinstance(values, list) and all(isinstance(value, str) for value in values)
    return schema.get("type") in ("string", ["string"])


def read_text(text: str, schema: Any) -> str:
    """The JSON of a value that is written as a text, if it is one, or else as JSON.

    A value that may be a text or something else is a text unless it begins as JSON of something else does.
    """
    if is_only_text(schema) or (is_text(schema) and not _JSON_START.match(text.strip())):
        return dumps(text)
    try:
        return dumps(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return dumps(text)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def python_value(cursor: Cursor, quote: str | None, depth: int = 0) -> Parser[Any]:
    """Reads a literal as Python or JSON write it; texts may be between `quote`s. Raises MalformedError."""
    yield from cursor.space()
    first = yield from cursor.peek()
    if depth > MAX_DEPTH:
        raise MalformedError
    if quote is not None and (yield from cursor.has(quote)):
        return (yield from cursor.until(quote))
    if first and first in "\"'":
        return (yield from _python_string(cursor))
    if first and first in "[(":
        return (yield from _items(cursor, quote, depth, "]" if first == "[" else ")"))
    if first == "{":
        return dict((yield from _items(cursor, quote, depth, "}")))
    begin = cursor.at
    word = yield from cursor.word()
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if _NUMBER.fullmatch(word) and len(word) <= MAX_DIGITS:
        number = float(word) if re.search("[.eE]", word) else int(word)
        if abs(number) != float("inf"):
            return number
    cursor.at = begin
    raise MalformedError


def _items(cursor: Cursor, quote: str | None, depth: int, end: str) -> Parser[list[Any]]:
    """The values of a list or a tuple, or the (key, value) pairs of a dict."""
    cursor.at += 1
    items: list[Any] = []
    while True:
        yield from cursor.space()
        if (yield from cursor.has(end)):
            return items
        if end == "}":
            key = yield from _key(cursor, quote)
            yield from cursor.expect(":")
            items.append((key, (yield from python_value(cursor, quote, depth + 1))))
        else:
            items.append((yield from python_value(cursor, quote, depth + 1)))
        yield from cursor.space()
        if not (yield from cursor.has(",")) and (yield from cursor.peek()) != end:
            raise MalformedError


def _key(cursor: Cursor, quote: str | None) -> Parser[str]:
    """A key of a dict: a text, or a bare name where texts have marks of their own."""
    first = yield from cursor.peek()
    if quote is not None and first not in ("'", '"', quote[0]):
        key: Any = yield from cursor.word()
    else:
        key = yield from python_value(cursor, quote)
    if not isinstance(key, str) or not key:
        raise MalformedError
    return key


def _python_string(cursor: Cursor) -> Parser[str]:
    quote = cursor.text[cursor.at]
    cursor.at += 1
    pieces: list[str] = []
    while (char := (yield from cursor.peek())) != quote:
        if not char:
            raise MalformedError
        cursor.at += 1
        pieces.append(char if char != "\\" else (yield from _python_escape(cursor)))
    cursor.at += 1
    text = "".join(pieces)  # surrogate pairs are one character in JSON
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text


def _python_escape(cursor: Cursor) -> Parser[str]:
    char = yield from cursor.peek()
    if not char:
        raise MalformedError
    cursor.at += 1
    if char not in _CODES:
        return _ESCAPES.get(char, char if char in "\\'\"/" else "\\" + char)
    digits = ""
    while len(digits) < _CODES[char] and (yield from cursor.peek()) in tuple("0123456789abcdefABCDEF"):
        digits += cursor.text[cursor.at]
        cursor.at += 1
    code = int(digits or "0", 16)
    if len(digits) < _CODES[char] or code > 0x10FFFF:
        raise MalformedError
    return chr(code)


def closing(text: str) -> str:
    """What makes an object of JSON that was left open whole. `text` is the valid beginning of one."""
    open_ones: list[str] = []
    in_string = False
    for found in re.finditer(r'\\.|["{}\[\]]', text, re.DOTALL):
        match found[0]:
            case '"':
                in_string = not in_string
            case "{" | "[" if not in_string:
                open_ones.append("}" if found[0] == "{" else "]")
            case "}" | "]" if not in_string:
                open_ones.pop()
    ends = "".join(reversed(open_ones))
    for missing in ("", "null", ":null", '"":null'):
        more = ('"' if in_string else "") + missing + ends
        try:
            json.loads(text + more)
        except ValueError:
            continue
        return more
    return ends
