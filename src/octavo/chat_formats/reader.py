"""Reads the answers of any format of the table but gpt-oss's, as they come."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from octavo.chat_formats.calls import CallWriter, NewId, read_call
from octavo.chat_formats.cursor import Cursor, MalformedError, Parser
from octavo.chat_formats.marks import Marks
from octavo.chat_formats.parts import Content, Part, Reasoning
from octavo.chat_formats.syntax import CallFormat, Thinking


class IncrementalReader:
    """An AnswerReader made of a parser, which waits where it needs more text."""

    def __init__(self, tools: Mapping[str, Any], new_id: NewId):
        self.cursor = Cursor()
        self.parts: list[Part] = []
        self.calls = CallWriter(self.cursor, self.parts, tools, new_id)
        self.num_read = 0  # characters
        self.num_thought = 0  # of them, those of thinking, with its marks
        self._is_cut = False
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
        was_open = self.calls.is_open
        if was_open:
            self.calls.give_up(complete=not (self._is_cut and self.cursor.at == len(self.cursor.text)))
        return was_open

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
        """`thinks` says whether the answer begins inside of thinking; None: it may think, and says so with the mark.

        `dropped` are special tokens that are no part of any text.
        """
        super().__init__(tools, new_id)
        self._format, self._thinking, self._thinks = calls, thinking, thinks
        marks = calls.marks if calls else ()
        self._dropped = frozenset(dropped) - {*marks, *((thinking.begin, thinking.end) if thinking else ())}
        self._content_marks = Marks((*marks, *self._dropped))
        self._space = ""  # white space that is text if more text comes
        self._is_behind_mark = False

    def answer(self) -> Parser[None]:
        if self._thinking is not None and self._thinks is not False:
            yield from self._think(self._thinking)
        if self._format is not None and self._format.is_bare:
            yield from self._bare_section(self._format)
        while mark := (yield from self._prose(self._content_marks, Content)):
            assert self._format is not None
            yield from self._section(self._format, mark)
        if not self.calls.num_calls:
            self._emit(Content, self._space, strip=False)

    def _think(self, thinking: Thinking) -> Parser[None]:
        begin = self.cursor.at
        yield from self.cursor.space()
        if not (yield from self.cursor.has(thinking.begin)) and not self._thinks:
            self.cursor.at = begin
            return
        self._is_behind_mark = True
        yield from self._prose(Marks((thinking.end, *self._dropped)), Reasoning)
        self._space, self._is_behind_mark = "", True
        self.num_thought = self.num_read - len(self.cursor.rest)

    def _prose(self, marks: Marks, kind: type[Content] | type[Reasoning]) -> Parser[str]:
        """Reads text up to a mark, which is returned; nothing at the end."""
        cursor = self.cursor
        while True:
            found = marks.find(cursor.text, cursor.at)
            if found is not None:
                self._emit(kind, cursor.text[cursor.at : found.start()])
                cursor.at = found.end()
                if found[0] not in self._dropped:
                    return found[0]
                continue
            end = len(cursor.text) - (0 if cursor.ended else marks.held(cursor.text, cursor.at))
            self._emit(kind, cursor.text[cursor.at : end])
            cursor.at = end
            cursor.forget()
            if cursor.ended:
                return ""
            yield

    def _emit(self, kind: type[Content] | type[Reasoning], text: str, strip: bool = True) -> None:
        """Adds text, but white space only once text comes behind it, and none behind a mark."""
        text = text if strip is False else self._space + text
        if self._is_behind_mark:
            text = text.lstrip()
        kept = text.rstrip() if strip else text
        self._space = text[len(kept) :]
        if kept:
            self._is_behind_mark = False
            self.parts.append(kind(kept))

    def _bare_section(self, calls: CallFormat) -> Parser[None]:
        """Calls that begin the answer without a mark, if it begins like them."""
        begin = self.cursor.at
        yield from self.cursor.space()
        first = yield from self.cursor.peek()
        if first and first == (calls.opening or "{")[0]:
            yield from self._section(calls, "")
        else:
            self.cursor.at = begin

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
                yield from self.cursor.has(word)
            self._space, self._is_behind_mark = "", True
        except MalformedError:
            if self.give_up_call():
                self._space = ""
            else:
                self._emit(Content, mark)
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
