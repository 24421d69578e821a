"""Grammars of answers: once a call of a tool begins, it is one that its reader reads, and that fits its schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from octavo.chat_formats.arguments import python_arguments, xml_arguments
from octavo.chat_formats.harmony import harmony_grammar
from octavo.chat_formats.syntax import (
    CallFormat,
    CallSyntax,
    HarmonyCall,
    NamedCall,
    ObjectCall,
    PythonCall,
    Thinking,
    XmlCall,
)
from octavo.chat_formats.tools import ToolUse
from octavo.errors import GrammarError
from octavo.structured.grammar import (
    Grammar,
    SpecialTokens,
    either,
    literal,
    regex,
    regex_of,
    repeated,
    rule,
    sequence,
    text,
    text_before,
)
from octavo.structured.schema import json_schema

_NUMBER = "[0-9]{1,3}"
_SPACE = "[ \\n]{0,4}"  # between thinking and what comes after it
_LIMITING = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "unevaluatedProperties", "additionalProperties")


def answer_grammar(
    calls: CallFormat,
    thinking: Thinking | None,
    thinks: bool | None,
    use: ToolUse,
    special: SpecialTokens,
    body: Grammar | None = None,
) -> Grammar | None:
    """What an answer may be, None where it may be anything. Raises GrammarError with the path in `tools`.

    `thinks` is as in MarkedReader. `body` is what the answer has to be where it calls no tool.
    """
    if body is None and not use.callable:
        return None
    if isinstance(calls.syntax, HarmonyCall):
        one = _any_call(calls, use, special) if use.callable else None
        return harmony_grammar(one, use, special, body)
    after = _body(calls, use, special, body)
    if thinking is None or thinks is False:
        return after
    thought = sequence(text_before(thinking.end, special), regex(_SPACE), after)
    if thinks:
        return thought
    return either(sequence(literal(thinking.begin, special), thought), after)


def _body(calls: CallFormat, use: ToolUse, special: SpecialTokens, body: Grammar | None) -> Grammar:
    if not use.callable:
        assert body is not None
        return body
    return _sections(calls, use, special, body)


def _any_call(calls: CallFormat, use: ToolUse, special: SpecialTokens, before: str = "") -> Grammar:
    """A call of any tool, with a mark `before` it."""
    return rule(either(*(_call(calls.syntax, name, use, special, before) for name in use.callable)))


def _sections(calls: CallFormat, use: ToolUse, special: SpecialTokens, body: Grammar | None) -> Grammar:
    """A text, or the sections of calls with text before them."""
    rest = _rest_of_section(calls, use, special)
    follows: tuple[Grammar, ...] = ()
    if calls.again is not None and use.is_parallel:
        follows = (repeated(sequence(literal(calls.again + calls.begins[0], special), rest)),)
    if use.is_required:
        return sequence(literal(calls.begins[0], special), rest, *follows)
    unlike = _bare_start(calls, use) if calls.is_bare else None
    answers = [body] if body is not None else _texts(calls, special, unlike)
    marks = calls.marks
    for mark, begin in zip(marks, filter(None, calls.begins), strict=True):
        head = text_before(mark, special, [each for each in marks if each != mark], unlike)
        answers.append(sequence(head, literal(begin[len(mark) :]), rest, *follows))
    if calls.is_bare:  # the lexer has to know it from text: it is one lexeme up to where no text may be like it
        answers.append(rest)
    return either(*answers)


def _texts(calls: CallFormat, special: SpecialTokens, unlike: str | None) -> list[Grammar]:
    plain = text(calls.marks, unlike)
    if calls.around_text is None:
        return [plain]
    begin, end = calls.around_text
    return [plain, sequence(literal(begin, special), text([*calls.marks, begin, end]), literal(end, special))]


def _rest_of_section(calls: CallFormat, use: ToolUse, special: SpecialTokens) -> Grammar:
    """What comes behind the mark that begins a section."""
    several = [_any_call(calls, use, special, calls.opening)]
    if calls.separator is not None and use.is_parallel:
        several.append(repeated(_any_call(calls, use, special, calls.separator)))
    return sequence(*several, literal(calls.closing + calls.end, special))


def _bare_start(calls: CallFormat, use: ToolUse) -> str:
    """How no text may begin, since calls without a mark begin like it."""
    opening = regex_of(calls.opening.strip())
    if isinstance(calls.syntax, ObjectCall):
        return rf'\s*{opening}\s*\{{\s*"{calls.syntax.name}"(.|\n)*'
    names = "|".join(map(regex_of, use.callable))
    return rf"\s*{opening}\s*({names})\s*\((.|\n)*"


def _call(syntax: CallSyntax, name: str, use: ToolUse, special: SpecialTokens, before: str) -> Grammar:
    where = use.paths[name]
    schema = object_schema(use.callable[name], where)
    match syntax:
        case ObjectCall():
            lead = _numbered(
                f'{before}{{{syntax.lead}"{syntax.name}": {json.dumps(name)}, "{syntax.arguments}": ', special
            )
            return sequence(*lead, json_schema(schema, where), literal("}"))
        case NamedCall():
            head = _numbered(before + syntax.begin + syntax.prefix + name + syntax.suffix + syntax.middle, special)
            return sequence(*head, json_schema(schema, where), literal(syntax.end, special))
        case XmlCall():
            head = [literal(before + syntax.name_begin + name + syntax.name_end, special)]
            return sequence(*head, xml_arguments(syntax, schema, where, special), literal(syntax.end, special))
        case PythonCall():
            head = [literal(before + syntax.begin + name + syntax.open, special)]
            return sequence(*head, python_arguments(syntax, schema, where, special), literal(syntax.close, special))
        case HarmonyCall():
            head = [literal(f"{before}{name} <|constrain|>json<|message|>", special)]
            return sequence(*head, json_schema(schema, where))


def _numbered(mark: str, special: SpecialTokens) -> list[Grammar]:
    """A mark with a number in place of "#"."""
    before, hash, behind = mark.partition("#")
    return [literal(before, special), *([regex(_NUMBER), literal(behind, special)] if hash else [])]


def object_schema(schema: Any, where: str) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object; what it names no property for is not written.

    Raises GrammarError where it is none of an object.
    """
    if not isinstance(schema, Mapping):
        raise GrammarError(where, "must be the JSON schema of an object")
    kind = schema.get("type", "object")
    if kind != "object" and kind != ["object"]:
        raise GrammarError(f"{where}.type", "must be 'object': the arguments of a function have names")
    whole = {**schema, "type": "object"}
    if not any(name in schema for name in _LIMITING):
        whole = {"properties": {}, **whole, "additionalProperties": False}
    return whole
