"""Text that is still coming, and the parsers of its pieces: generators that wait for more text by yielding.

What a parser finds follows from the text alone, never from where it was cut, as long as it decides nothing before it
has seen what it decides on.
"""

from __future__ import annotations

import re
import string
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Parser = Generator[None, None, T]  # yields where it needs more text

MAX_DEPTH = 64  # of values in values
_SPACE = " \t\r\n"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})')
_WORD = frozenset(string.ascii_letters + string.digits + "-+._")
JSON_SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
MAX_DIGITS = 4000  # Python's own reader of JSON refuses integers that are longer


class MalformedError(Exception):
    """The text is not what the parser reads; the cursor stands at what it can't be."""


class Cursor:
    """The text that has come, and how far it has been read."""

    def __init__(self) -> None:
        self.text, self.at, self.ended = "", 0, False

    @property
    def rest(self) -> str:
        return self.text[self.at :]

    def forget(self) -> None:
        """Drops what has been read, which shifts positions."""
        self.text, self.at = self.text[self.at :], 0

    def peek(self) -> Parser[str]:
        """The next character; nothing at the end."""
        while self.at == len(self.text) and not self.ended:
            yield
        return self.text[self.at : self.at + 1]

    def space(self) -> Parser[None]:
        while (next_one := (yield from self.peek())) and next_one in _SPACE:
            self.at += 1

    def has(self, word: str) -> Parser[bool]:
        """Whether `word` comes next, which is then read."""
        while not self.text.startswith(word, self.at):
            if self.ended or not word.startswith(self.rest):
                return False
            yield
        self.at += len(word)
        return True

    def close(self, word: str) -> Parser[None]:
        """Reads `word` if it comes next, or what there is of it before the end."""
        if not (yield from self.has(word)) and self.ended and word.startswith(self.rest):
            self.at = len(self.text)

    def expect(self, mark: str) -> Parser[None]:
        """Reads a mark, whatever white space there is around its words and between them. Raises MalformedError."""
        for word in mark.split():
            yield from self.space()
            if not (yield from self.has(word)):
                raise MalformedError

    def until(self, mark: str) -> Parser[str]:
        """The text before `mark`, which is read too. Raises MalformedError where it never comes."""
        begin = self.at
        while (end := self.text.find(mark, begin)) < 0:
            if self.ended:
                raise MalformedError
            begin = max(self.at, len(self.text) - len(mark) + 1)
            yield
        found = self.text[self.at : end]
        self.at = end + len(mark)
        return found

    def word(self, more: str = "") -> Parser[str]:
        """As many letters, digits and characters of `_.-+` as there are, and of `more`."""
        begin = end = self.at
        while True:
            while end < len(self.text) and (self.text[end] in _WORD or self.text[end] in more):
                end += 1
            if end < len(self.text) or self.ended:
                self.at = end
                return self.text[begin:end]
            yield


def json_value(cursor: Cursor, depth: int = 0) -> Parser[None]:
    """Reads a JSON value. The cursor moves as far as text is sure to be part of one. Raises MalformedError."""
    yield from cursor.space()
    first = yield from cursor.peek()
    if depth > MAX_DEPTH:
        raise MalformedError
    if first == '"':
        yield from json_string(cursor)
    elif first == "{" or first == "[":
        yield from _json_container(cursor, depth, "}" if first == "{" else "]")
    else:
        begin = cursor.at
        word = yield from cursor.word()
        if not JSON_SCALAR.fullmatch(word) or len(word) > MAX_DIGITS:
            cursor.at = begin
            raise MalformedError


def json_string(cursor: Cursor) -> Parser[None]:
    """Reads a JSON string. Raises MalformedError."""
    if not (yield from cursor.has('"')):
        raise MalformedError
    while True:
        match = _PLAIN.match(cursor.text, cursor.at)
        assert match is not None
        cursor.at = match.end()
        match (yield from cursor.peek()):
            case '"':
                cursor.at += 1
                return
            case "\\":
                yield from _escape(cursor)
            case "":
                raise MalformedError
            case control if control < " ":
                raise MalformedError


def _escape(cursor: Cursor) -> Parser[None]:
    while (match := _ESCAPE.match(cursor.text, cursor.at)) is None:
        if cursor.ended or not _may_be_escape(cursor.rest):
            raise MalformedError
        yield
    cursor.at = match.end()


def _may_be_escape(text: str) -> bool:
    return len(text) < 2 or (text[1] == "u" and len(text) < 6 and re.fullmatch("[0-9a-fA-F]*", text[2:]) is not None)


def _json_container(cursor: Cursor, depth: int, end: str) -> Parser[None]:
    cursor.at += 1
    yield from cursor.space()
    if (yield from cursor.has(end)):
        return
    while True:
        if end == "}":
            yield from json_key(cursor)
        yield from json_value(cursor, depth + 1)
        yield from cursor.space()
        if (yield from cursor.has(end)):
            return
        if not (yield from cursor.has(",")):
            raise MalformedError


def json_key(cursor: Cursor) -> Parser[str]:
    """Reads a key and its colon, and returns the key as JSON. Raises MalformedError."""
    yield from cursor.space()
    begin = cursor.at
    yield from json_string(cursor)
    key = cursor.text[begin : cursor.at]
    yield from cursor.space()
    if not (yield from cursor.has(":")):
        raise MalformedError
    return key
