"""gpt-oss's answers: messages in channels, each with a header."""

from __future__ import annotations

import re

from octavo.chat_formats.cursor import MalformedError, Parser
from octavo.chat_formats.marks import Marks
from octavo.chat_formats.parts import Content, Reasoning
from octavo.chat_formats.reader import IncrementalReader, Kind
from octavo.chat_formats.tools import ToolUse
from octavo.structured.grammar import Grammar, SpecialTokens, either, literal, repeated, sequence, text

_CHANNEL = re.compile(r"<\|channel\|>\s*(\w*)")
_RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+)")
_MESSAGE = "<|message|>"
_START = "<|start|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", _START)
_NEXT = "<|end|><|start|>assistant"


class HarmonyReader(IncrementalReader):
    """Reads `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`."""

    def answer(self) -> Parser[None]:
        self._ends = Marks(_ENDS, self.dropped)
        self._kinds: set[Kind] = set()  # of messages so far
        while True:
            yield from self.cursor.space()
            if not (yield from self.cursor.peek()):
                break
            yield from self._message()
        self.finish_prose()

    def _message(self) -> Parser[None]:
        begin = self.cursor.at
        try:
            header = (yield from self._header()) if (yield from self.cursor.has("<|")) else ""
        except MalformedError:
            header, self.cursor.at = "", begin
            yield from self.cursor.has(_START)
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        if recipient is not None and recipient[1] in self.calls.tools:
            yield from self._call(recipient[1])
        elif channel is not None and channel[1] == "analysis":
            yield from self._prose(Reasoning)
            self.num_thought = self.num_read - len(self.cursor.rest)
        else:
            yield from self._prose(Content)

    def _header(self) -> Parser[str]:
        """What comes before the text of a message. Raises MalformedError where no text comes."""
        header = yield from self.cursor.until(_MESSAGE)
        if "<|end|>" in header or "\n" in header:
            raise MalformedError
        return f"<|{header}"

    def _prose(self, kind: Kind) -> Parser[None]:
        if kind in self._kinds:
            self.begin_line()
        self._kinds.add(kind)
        mark = yield from self.prose(self._ends, kind)
        if mark:
            self.leave_mark()
        if mark == _START:
            self.cursor.at -= len(mark)

    def _call(self, name: str) -> Parser[None]:
        try:
            yield from self.calls.copy(name)
            self.calls.end()
            yield from self.cursor.space()
            for end in ("<|call|>", "<|end|>"):
                yield from self.cursor.has(end)
            self.leave_mark()
        except MalformedError:
            self.give_up_call()


def harmony_grammar(one: Grammar | None, use: ToolUse, special: SpecialTokens, body: Grammar | None) -> Grammar:
    """Messages of thinking and of preambles, then a call of `one` of the tools, or the final message."""
    free = text(("<|channel|>", _MESSAGE, *_ENDS))
    before = [literal(f"<|channel|>{channel}{_MESSAGE}", special) for channel in ("analysis", "commentary")]
    answers = [] if one is None else [sequence(literal("<|channel|>commentary to=functions.", special), one)]
    if not use.is_required:
        answers.append(sequence(literal(f"<|channel|>final{_MESSAGE}", special), body or free))
    return sequence(repeated(sequence(either(*before), free, literal(_NEXT, special))), either(*answers))
