"""Reads the answers of any format of the table but gpt-oss's, as they come."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from octavo.chat_formats.calls import CallWriter, NewId, read_call
from octavo.chat_formats.cursor import Cursor, MalformedError, Parser
from octavo.chat_formats.marks import Marks
from octavo.chat_formats.parts import Content, Part, Reasoning
from octavo.chat_formats.syntax import CallFormat, ObjectCall, PythonCall, Thinking

Kind = type[Content] | type[Reasoning]


class IncrementalReader:
    """An AnswerReader made of a parser, which waits where it needs more text."""

    def __init__(self, tools: Mapping[str, Any], new_id: NewId, dropped: Collection[str] = ()):
        """`dropped` are special tokens that are no part of any text, unless they are marks."""
        self.cursor = Cursor()
        self.parts: list[Part] = []
        self.calls = CallWriter(self.cursor, self.parts, tools, new_id)
        self.num_read = 0  # characters
        self.num_thought = 0  # of them, those of thinking, with its marks
        self.dropped = frozenset(dropped)
        self.is_behind_mark = False
        self._is_cut = False
        self._space = ""  # white space that is text if more text comes
        self._parser = self.answer()

    def answer(self) -> Parser[None]:
        """Reads all of the answer."""
        raise NotImplementedError

    def feed(self, text: str) -> list[Part]:
        self.cursor.text += text
        self.num_read += len(text)
        next(self._parser, None)
        self.calls.flush()
        return self._taken()

    def end(self, is_cut: bool = False) -> list[Part]:
        self.cursor.ended, self._is_cut = True, is_cut
        for _ in self._parser:
            raise AssertionError("a parser waits behind the end")
        return self._taken()

    def give_up_call(self) -> bool:
        """Ends a call that was begun and is malformed; whether there is one. That of an answer that was cut is cut."""
        if not self.calls.is_open:
            return False
        is_cut = self._is_cut and self.cursor.ended  # or else it went wrong before
        self.calls.give_up(complete=not is_cut)
        if is_cut:
            self.cursor.at = len(self.cursor.text)
        return True

    def prose(self, marks: Marks, kind: Kind) -> Parser[str]:
        """Reads text up to a mark, which is returned; nothing at the end."""
        cursor = self.cursor
        while True:
            found = marks.find(cursor.text, cursor.at)
            if found is not None:
                self.emit(kind, cursor.text[cursor.at : found.start()])
                cursor.at = found.end()
                if found[0] in marks.kept:
                    return found[0]
                continue
            end = len(cursor.text) - (0 if cursor.ended else marks.held(cursor.text, cursor.at))
            self.emit(kind, cursor.text[cursor.at : end])
            cursor.at = end
            cursor.forget()
            if cursor.ended:
                return ""
            yield

    def emit(self, kind: Kind, text: str, strip: bool = True) -> None:
        """Adds text, but white space only once text comes behind it, and none behind a mark."""
        text = self._space + text
        if self.is_behind_mark:
            text = text.lstrip()
        kept = text.rstrip() if strip else text
        self._space = text[len(kept) :]
        if kept:
            self.is_behind_mark = False
            self.parts.append(kind(kept))

    def leave_mark(self) -> None:
        """White space before it and behind it is nobody's."""
        self._space, self.is_behind_mark = "", True

    def begin_line(self) -> None:
        """What comes next is on a line of its own."""
        self._space, self.is_behind_mark = "\n", False

    def finish_prose(self) -> None:
        """White space at the end is text after all."""
        self.emit(Content, "", strip=False)

    def _taken(self) -> list[Part]:
        taken = self.parts[:]
        self.parts.clear()
        return taken


class MarkedReader(IncrementalReader):
    """Reads thinking between marks, then text and sections of calls.

    White space beside a mark is nobody's. What looks like a call and can't be read is text.
    """

    def __init__(
        self,
        calls: CallFormat | None,
        thinking: Thinking | None,
        thinks: bool | None,
        tools: Mapping[str, Any],
        new_id: NewId,
        dropped: Collection[str] = (),
    ):
        """`thinks` says whether the answer begins inside of thinking; None: it may think, and says so with the mark."""
        around = (calls and calls.around_text) or ()
        super().__init__(tools, new_id, (*dropped, *around))
        self._format, self._thinking, self._thinks = calls, thinking, thinks
        marks = calls.marks if calls else ()
        self._content_marks = Marks(marks, self.dropped)

    def answer(self) -> Parser[None]:
        if self._thinking is not None and self._thinks is not False:
            yield from self._think(self._thinking)
        if self._format is not None and self._format.is_bare:
            yield from self._bare_section(self._format)
        while mark := (yield from self.prose(self._content_marks, Content)):
            assert self._format is not None
            yield from self._section(self._format, mark)
        if not self.calls.num_calls:
            self.finish_prose()

    def _think(self, thinking: Thinking) -> Parser[None]:
        begin = self.cursor.at
        yield from self.cursor.space()
        if not (yield from self.cursor.has(thinking.begin)) and not self._thinks:
            self.cursor.at = begin
            return
        self.is_behind_mark = True
        yield from self.prose(Marks((thinking.end,), self.dropped), Reasoning)
        self.leave_mark()
        self.num_thought = self.num_read - len(self.cursor.rest)

    def _bare_section(self, calls: CallFormat) -> Parser[None]:
        """Calls that begin the answer without a mark, if it begins as they do."""
        begin = self.cursor.at
        is_call = yield from self._begins_call(calls)
        self.cursor.at = begin
        if is_call:
            yield from self._section(calls, "")

    def _begins_call(self, calls: CallFormat) -> Parser[bool]:
        try:
            yield from self.cursor.expect(calls.opening)
            match calls.syntax:
                case ObjectCall():
                    yield from self.cursor.expect("{")
                    yield from self.cursor.expect(f'"{calls.syntax.name}"')
                case PythonCall():
                    yield from self.cursor.space()
                    return (yield from self.cursor.word()) in self.calls.tools
        except MalformedError:
            return False
        return True

    def _section(self, calls: CallFormat, mark: str) -> Parser[None]:
        begin = self.cursor.at
        try:
            yield from self.cursor.expect(calls.opening)
            while True:
                yield from read_call(calls.syntax, self.cursor, self.calls)
                mark, begin = "", self.cursor.at
                if not (yield from self._goes_on(calls)):
                    break
            for word in (*calls.closing.split(), *calls.end.split()):
                yield from self.cursor.space()
                yield from self.cursor.close(word)
            self.leave_mark()
        except MalformedError:
            if not self.give_up_call():
                self.emit(Content, mark)
                self.cursor.at = begin

    def _goes_on(self, calls: CallFormat) -> Parser[bool]:
        """Whether another call of the section follows."""
        if calls.separator is None:
            return False
        yield from self.cursor.space()
        if word := calls.separator.strip():
            return (yield from self.cursor.has(word))
        begin = self.cursor.at
        for end in (calls.closing, calls.end):
            if end.strip() and (yield from self.cursor.has(end.split()[0])):
                self.cursor.at = begin
                return False
        return bool((yield from self.cursor.peek()))
