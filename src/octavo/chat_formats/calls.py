"""Reads one call of a tool, in each of the ways in which models write it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from octavo.chat_formats.cursor import Cursor, MalformedError, Parser, json_key, json_value
from octavo.chat_formats.parts import CallArguments, CallBegin, Part
from octavo.chat_formats.syntax import CallSyntax, NamedCall, ObjectCall, PythonCall, XmlCall
from octavo.chat_formats.values import Written, closing, dumps, how_written, parameter_schema, python_value

NewId = Callable[[int, str, str | None], str]  # the number of a call, its tool's name, the id that the model wrote


class CallWriter:
    """Makes parts of what is read of calls. `tools` has the schema of each tool's arguments, by name."""

    def __init__(self, cursor: Cursor, parts: list[Part], tools: Mapping[str, Any], new_id: NewId):
        self.cursor, self.parts, self.tools = cursor, parts, tools
        self._new_id = new_id
        self.num_calls = 0
        self.is_open = False
        self._written = ""  # arguments of the call that is open
        self._raw_from: int | None = None  # from here on the text itself is arguments

    def begin(self, name: str, id: str | None = None) -> None:
        """Raises MalformedError if there is no such tool."""
        if name not in self.tools:
            raise MalformedError
        self.parts.append(CallBegin(self.num_calls, self._new_id(self.num_calls, name, id), name))
        self.num_calls += 1
        self.is_open, self._written = True, ""

    def write(self, arguments: str) -> None:
        if arguments:
            self.parts.append(CallArguments(self.num_calls - 1, arguments))
            self._written += arguments

    def copy(self, name: str, id: str | None = None) -> Parser[None]:
        """Begins a call whose arguments are the JSON object that comes next. Raises MalformedError."""
        yield from self.cursor.space()
        if (yield from self.cursor.peek()) != "{":
            raise MalformedError
        self.begin(name, id)
        self._raw_from = self.cursor.at
        yield from json_value(self.cursor)
        self.flush()
        self._raw_from = None

    def flush(self) -> None:
        """Writes what has been read of an object that is copied."""
        if self._raw_from is not None:
            self.write(self.cursor.text[self._raw_from : self.cursor.at])
            self._raw_from = self.cursor.at

    def end(self) -> None:
        self.is_open = False

    def give_up(self, complete: bool) -> None:
        """The call goes on as no call does; if `complete`, its arguments become an object all the same."""
        self.flush()
        if complete:
            begun = self._written or "{"
            self.write(begun[len(self._written) :] + closing(begun))
        self.is_open, self._raw_from = False, None


def read_call(syntax: CallSyntax, cursor: Cursor, calls: CallWriter) -> Parser[None]:
    """Raises MalformedError."""
    match syntax:
        case ObjectCall():
            yield from _read_object(syntax, cursor, calls)
        case NamedCall():
            yield from _read_named(syntax, cursor, calls)
        case XmlCall():
            yield from _read_xml(syntax, cursor, calls)
        case PythonCall():
            yield from _read_python(syntax, cursor, calls)
        case _:
            raise AssertionError(syntax)
    calls.end()


def _read_object(syntax: ObjectCall, cursor: Cursor, calls: CallWriter) -> Parser[None]:
    yield from cursor.expect("{")
    fields: dict[str, Any] = {}
    name = id = None
    while True:
        key = json.loads((yield from json_key(cursor)))
        yield from cursor.space()
        first = yield from cursor.peek()
        if key in (syntax.arguments, "arguments", "parameters") and isinstance(name, str) and first == "{":
            if not calls.is_open:
                yield from calls.copy(name, id)
            else:
                yield from json_value(cursor)
        else:
            begin = cursor.at
            yield from json_value(cursor)
            fields["arguments" if key in (syntax.arguments, "parameters") else key] = cursor.text[begin : cursor.at]
            name = _text(fields.get(syntax.name))
            id = _text(fields.get("id"))
        yield from cursor.space()
        if (yield from cursor.has("}")):
            break
        if not (yield from cursor.has(",")):
            raise MalformedError
    if not calls.is_open:
        arguments = _object(fields.get("arguments"))
        calls.begin(name or "", id)
        calls.write(arguments)


def _text(value: str | None) -> str | None:
    """The text that a JSON value is, if it is one."""
    return json.loads(value) if value is not None and value.startswith('"') else None


def _object(value: str | None) -> str:
    """The JSON of an object, which may be written as a text, or left out. Raises MalformedError."""
    if value is None or value == "null":
        return "{}"
    text = _text(value) if value.startswith('"') else value
    try:
        if isinstance(json.loads(text or "{}"), dict):
            return text or "{}"
    except (ValueError, RecursionError):
        pass
    raise MalformedError


def _read_named(syntax: NamedCall, cursor: Cursor, calls: CallWriter) -> Parser[None]:
    yield from cursor.expect(syntax.begin)
    yield from cursor.space()
    if syntax.suffix:  # the name is a part of the id
        id: str | None = yield from cursor.word(":")
        assert id is not None
        name = id.removeprefix(syntax.prefix).rpartition(":")[0]
    else:
        id, name = None, (yield from cursor.word())
    if syntax.id_mark is not None and (yield from cursor.has(syntax.id_mark)):
        id = yield from cursor.word()
    yield from cursor.expect(syntax.middle)
    yield from calls.copy(name, id)
    yield from cursor.expect(syntax.end)


def _read_xml(syntax: XmlCall, cursor: Cursor, calls: CallWriter) -> Parser[None]:
    yield from cursor.expect(syntax.name_begin)
    yield from cursor.space()
    name = yield from cursor.word()
    yield from cursor.expect(syntax.name_end)
    calls.begin(name)
    schema = calls.tools[name]
    separator = "{"
    while True:
        yield from cursor.space()
        if not (yield from cursor.has(syntax.key_begin.strip())):
            if cursor.ended and not syntax.end:  # a parameter may have been about to come
                raise MalformedError
            break
        key = yield from cursor.until(syntax.key_end.strip())
        value = yield from _xml_value(syntax, cursor, parameter_schema(schema, key))
        calls.write(f"{separator}{dumps(key)}: {value}")
        separator = ", "
    yield from cursor.expect(syntax.end)
    calls.write("}" if separator == ", " else "{}")


def _xml_value(syntax: XmlCall, cursor: Cursor, schema: Any) -> Parser[str]:
    """The JSON of the value of a parameter."""
    mark = syntax.value_end.strip()
    if syntax.text_begin is not None and (yield from cursor.has(syntax.text_begin)):
        return dumps((yield from cursor.until(mark)))
    yield from cursor.expect(syntax.value_begin)
    begin = cursor.at
    if syntax.text_begin is not None or how_written(schema) in (Written.EITHER, Written.JSON):
        try:  # texts in JSON may have the mark
            yield from json_value(cursor)
            value = cursor.text[begin : cursor.at].strip()
            yield from cursor.expect(mark)
            return value
        except MalformedError:
            cursor.at = begin
    text = yield from cursor.until(mark)
    if syntax.value_end[0] == "\n":  # a line break belongs to each mark
        text = text.removeprefix("\n").removesuffix("\n")
    return dumps(text)


def _read_python(syntax: PythonCall, cursor: Cursor, calls: CallWriter) -> Parser[None]:
    yield from cursor.expect(syntax.begin)
    yield from cursor.space()
    name = yield from cursor.word()
    yield from cursor.expect(syntax.open)
    calls.begin(name)
    separator = "{"
    while True:
        yield from cursor.space()
        if (yield from cursor.has(syntax.close)):
            break
        key = yield from cursor.word()
        yield from cursor.expect(syntax.assign)
        value = yield from python_value(cursor, syntax.quote)
        calls.write(f"{separator}{dumps(key)}: {value}")
        separator = ", "
        yield from cursor.space()
        if not (yield from cursor.has(",")) and (yield from cursor.peek()) != syntax.close:
            raise MalformedError
    calls.write("}" if separator == ", " else "{}")
