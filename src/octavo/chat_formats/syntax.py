"""What one entry of the table of formats says: how a model writes calls of tools, and thinking."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectCall:
    """`{"name": "f", "arguments": {…}}`: a JSON object."""

    name: str = "name"
    arguments: str = "arguments"
    lead: str = ""  # what the object begins with, before the name; "#" stands for the number of the call


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCall:
    """A name and the JSON object of its arguments, with marks before, between and behind."""

    begin: str = ""
    prefix: str = ""  # of the name
    suffix: str = ""  # of the name; "#" stands for the number of the call
    middle: str = ""
    end: str = ""
    id_mark: str | None = None  # an id may come after this, behind the name


@dataclass(frozen=True, slots=True, kw_only=True)
class XmlCall:
    """A name and parameters, each between marks. Texts are written as they are, other values as JSON."""

    name_begin: str = ""
    name_end: str = ""
    key_begin: str
    key_end: str
    value_begin: str = ""
    text_begin: str | None = None  # `value_begin` of texts, where it differs from that of other values
    value_end: str
    end: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonCall:
    """`f(a=1, b="x")`: a name, and parameters with values as Python writes them."""

    begin: str = ""
    open: str = "("
    assign: str = "="
    close: str = ")"
    quote: str | None = None  # the mark around texts, instead of quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmonyCall:
    """gpt-oss: answers are messages in channels, and a call is one that is addressed to a tool."""


CallSyntax = ObjectCall | NamedCall | XmlCall | PythonCall | HarmonyCall


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """How a model writes calls of tools.

    An answer has sections: `begin`, `opening`, calls with `separator` between them, `closing`, `end`. White space in
    marks is what models write; readers take any, or none.
    """

    name: str
    parsers: tuple[str, ...]  # vLLM's names of it, for --tool-call-parser
    detect: tuple[tuple[str, ...], ...]  # a chat template that has all texts of one of these writes this format
    syntax: CallSyntax
    begins: tuple[str, ...]  # what a section may begin with, the usual one first; "" can begin an answer only
    opening: str = ""
    separator: str | None = None  # between calls of a section; None where it has one call
    closing: str = ""
    end: str = ""
    again: str | None = None  # between sections; None where an answer has one
    around_text: tuple[str, str] | None = None  # marks around an answer that is text
    id: str = "call"  # how ids look that the model does not write, by their name in `octavo.chat_formats.ids`
    arguments_are_text: bool = False  # the template takes the arguments of earlier calls as JSON
    prompted: bool = False  # the template knows no tools: they are described in a system message

    @property
    def is_parallel(self) -> bool:
        """Whether an answer may have several calls."""
        return self.separator is not None or self.again is not None

    @property
    def marks(self) -> tuple[str, ...]:
        """What tells in any text that a section begins."""
        return tuple(begin.strip() for begin in self.begins if begin)

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts that are written around names and values."""
        around = (self.opening, self.separator or "", self.closing, self.end, self.again or "")
        of_call = [value for value in astuple(self.syntax) if isinstance(value, str)]
        return (*self.begins, *around, *of_call)

    @property
    def is_bare(self) -> bool:
        """Whether an answer may begin with a call, without a mark."""
        return "" in self.begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a model writes what it thinks before it answers."""

    name: str
    parsers: tuple[str, ...]  # vLLM's names of it, for --reasoning-parser
    begin: str
    end: str
    detect: str | None = None  # what a chat template of it has; None: `end`
    always: bool = False  # an answer begins with it even where nothing says so

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.begin, self.end)
