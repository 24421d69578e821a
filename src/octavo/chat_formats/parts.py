"""What an answer is made of, as it comes: thinking, text, and calls of tools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of the text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A tool is called; `index` counts the calls of an answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of call `index`; its pieces together are the JSON of an object."""

    index: int
    text: str


Part = Reasoning | Content | CallBegin | CallArguments


class AnswerReader(Protocol):
    """Takes the text of an answer piece by piece. What it finds in all of it does not depend on where that is cut."""

    num_thought: int  # characters of the text, from its beginning, that are thinking and its marks

    def feed(self, text: str) -> list[Part]:
        """What is known of the answer now that was not before."""

    def end(self, is_cut: bool = False) -> list[Part]:
        """The rest, as no more text comes; `is_cut` says that the answer did not end by itself."""


class PlainReader:
    """The reader of answers that are nothing but text."""

    num_thought = 0

    def feed(self, text: str) -> list[Part]:
        return [Content(text)] if text else []

    def end(self, is_cut: bool = False) -> list[Part]:
        return []


@dataclass(slots=True)
class Call:
    """A call of a tool. `arguments` is JSON."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """All parts so far."""

    reasoning: str = ""
    content: str = ""
    calls: list[Call] = field(default_factory=list)

    def add(self, parts: Iterable[Part]) -> None:
        for part in parts:
            match part:
                case Reasoning(text):
                    self.reasoning += text
                case Content(text):
                    self.content += text
                case CallBegin(_, id, name):
                    self.calls.append(Call(id, name))
                case CallArguments(index, text):
                    self.calls[index].arguments += text
