"""Values of arguments that are not written as JSON: texts as they are, and Python's literals."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from typing import Any

from octavo.chat_formats.cursor import JSON_SCALAR, MAX_DEPTH, MAX_DIGITS, Cursor, MalformedError, Parser

_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+]?[0-9]+)?")
_CONSTANTS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_CODES = {"x": 2, "u": 4, "U": 8}
# A text that would be read as JSON, where a value may be a text or something else.
TEXT_AS_JSON = r"\s*([-0-9\[{\"](.|\n)*|(true|false|null)\s*)"
NOTES = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$comment", "$schema", "$id", "$defs", "definitions"),
}


class Written(enum.Enum):
    """How a value is written where texts need no quotes."""

    TEXT = "a text as it is"
    CHOICE = "one of some texts as it is"
    EITHER = "a text as it is, unless it could be JSON; or JSON"
    JSON = "JSON, texts in quotes too"


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def how_written(schema: Any) -> Written:
    """How values of a schema are written: JSON alone can say which texts fit where not all do."""
    if not isinstance(schema, Mapping):
        return Written.JSON if schema is False else Written.EITHER
    limits = {name: value for name, value in schema.items() if name not in NOTES}
    if limits.get("type") in (None, "string") and set(limits) - {"type"} in ({"enum"}, {"const"}):
        values = limits.get("enum", [limits.get("const")])
        is_texts = isinstance(values, list) and values and all(map(_is_plain, values))
        return Written.CHOICE if is_texts else Written.JSON
    if limits in ({"type": "string"}, {"type": ["string"]}):
        return Written.TEXT
    if not limits:
        return Written.EITHER
    for name in ("anyOf", "oneOf"):
        if set(limits) == {name} and isinstance(limits[name], list):
            return Written.EITHER if any(how_written(each) is Written.TEXT for each in limits[name]) else Written.JSON
    if set(limits) == {"type"} and isinstance(limits["type"], list) and "string" in limits["type"]:
        return Written.EITHER
    return Written.JSON


def _is_plain(value: Any) -> bool:
    """Whether it is a text that needs no quotes: white space around it would not be told from that of marks."""
    return isinstance(value, str) and bool(value) and value == value.strip()


def parameter_schema(schema: Any, name: str) -> Any:
    """The schema of one of a tool's arguments; True where it says nothing of it."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return resolved(properties.get(name, True) if isinstance(properties, Mapping) else True, schema)


def resolved(schema: Any, root: Any) -> Any:
    """The schema itself where it is a reference to a definition of `root`."""
    for _ in range(16):
        if not isinstance(schema, Mapping) or not isinstance(reference := schema.get("$ref"), str):
            return schema
        found = root
        for key in reference.removeprefix("#").split("/")[1:]:
            found = found.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        schema = found
    return True


def python_value(cursor: Cursor, quote: str | None, depth: int = 0) -> Parser[str]:
    """Reads a literal as Python or JSON write it; texts may be between `quote`s. Raises MalformedError.

    What it returns is the JSON of the value. It is never made of anything but its own text, which is hostile.
    """
    yield from cursor.space()
    first = yield from cursor.peek()
    if depth > MAX_DEPTH:
        raise MalformedError
    if quote is not None and (yield from cursor.has(quote)):
        return dumps((yield from cursor.until(quote)))
    if first and first in "\"'":
        return dumps((yield from _python_string(cursor)))
    if first and first in "[({":
        end = {"[": "]", "(": ")", "{": "}"}[first]
        items = ", ".join((yield from _items(cursor, quote, depth, end)))
        return f"{{{items}}}" if first == "{" else f"[{items}]"
    begin = cursor.at
    word = yield from cursor.word()
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if _NUMBER.fullmatch(word) and len(word) <= MAX_DIGITS:
        return word if JSON_SCALAR.fullmatch(word) else _number(word)
    cursor.at = begin
    raise MalformedError


def _number(word: str) -> str:
    """A number that Python writes in another way than JSON does. Raises MalformedError."""
    number = float(word) if re.search("[.eE]", word) else int(word)
    if abs(number) == float("inf"):
        raise MalformedError
    return repr(number)


def _items(cursor: Cursor, quote: str | None, depth: int, end: str) -> Parser[list[str]]:
    """The values of a list or a tuple, or the pairs of keys and values of a dict."""
    cursor.at += 1
    items: list[str] = []
    while True:
        yield from cursor.space()
        if (yield from cursor.has(end)):
            return items
        if end == "}":
            key = yield from _key(cursor, quote)
            yield from cursor.expect(":")
            items.append(f"{key}: {(yield from python_value(cursor, quote, depth + 1))}")
        else:
            items.append((yield from python_value(cursor, quote, depth + 1)))
        yield from cursor.space()
        if not (yield from cursor.has(",")) and (yield from cursor.peek()) != end:
            raise MalformedError


def _key(cursor: Cursor, quote: str | None) -> Parser[str]:
    """A key of a dict: a text, or a bare name where texts have marks of their own."""
    first = yield from cursor.peek()
    if quote is not None and first not in ("'", '"', quote[0]):
        return dumps((yield from cursor.word()))
    key = yield from python_value(cursor, quote)
    if not key.startswith('"'):
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
