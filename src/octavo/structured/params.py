"""`StructuredOutputsParams`: what a text must be, with vLLM's names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from octavo.errors import GrammarError, ParameterError
from octavo.structured import grammar as grammars
from octavo.structured.ebnf import user_grammar
from octavo.structured.grammar import NONE, Grammar, SpecialTokens
from octavo.structured.schema import JsonStyle, json_object, json_schema
from octavo.structured.tags import structural_tag

MAX_CHOICES = 4096
MAX_PATTERN = 64 << 10  # characters of a regex


@dataclass(slots=True)
class StructuredOutputsParams:
    """What a text must be; names and meaning are vLLM's. Exactly one of the first six says it.

    Raises ParameterError for values of a wrong type, and unless it is exactly one. What they say in detail is checked
    when the grammar is made: see `octavo.structured.params.grammar_of`.
    """

    json: str | dict[str, Any] | bool | None = None  # a JSON schema, or its text
    regex: str | None = None  # in the syntax of Rust's regex, matched as a whole
    choice: list[str] | None = None  # one of these texts
    grammar: str | None = None  # in llguidance's Lark, or GBNF
    json_object: bool | None = None  # any JSON object
    structural_tag: str | dict[str, Any] | None = None  # parts of a text, between tags
    disable_any_whitespace: bool = False  # JSON has no white space at all
    disable_additional_properties: bool = False  # objects have no properties but those that the schema names
    whitespace_pattern: str | None = None  # a regex of the white space in JSON, in place of what json.dumps writes
    disable_fallback: bool = False  # there is one back end, and none to fall back to

    def __post_init__(self) -> None:
        if (make := getattr(self.json, "model_json_schema", None)) is not None:  # a class of pydantic
            self.json = make()
        for name, kinds in _TYPES.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise ParameterError(name, value, " or ".join(kind.__name__ for kind in kinds))
        given = self.kinds
        if len(given) != 1:
            got = f"{len(given)} ({', '.join(given)})" if given else "none"
            raise ParameterError("structured_outputs", got, f"exactly one of {', '.join(_KINDS)}")
        for name in _OF_JSON if given[0] not in _WITH_JSON else ():
            if getattr(self, name):
                raise ParameterError(name, getattr(self, name), f"left out beside {given[0]}: it is about JSON")

    @property
    def kinds(self) -> list[str]:
        """Which of the first six are given."""
        return [name for name in _KINDS if getattr(self, name) is not None and (self.json_object or name != _OBJECT)]


@dataclass(slots=True)
class GuidedDecodingParams(StructuredOutputsParams):
    """The old name of `StructuredOutputsParams`; `backend` may be any: llguidance is used."""

    backend: str | None = None


def read_params(name: str, value: Any) -> StructuredOutputsParams | None:
    """The parameter `name` as it is, or as a dict of the fields; raises ParameterError."""
    if value is None or isinstance(value, StructuredOutputsParams):
        return value
    if not isinstance(value, Mapping):
        raise ParameterError(name, value, "StructuredOutputsParams, or a dict of its fields")
    known = {field.name for field in fields(GuidedDecodingParams)}
    if unknown := sorted(map(str, value.keys() - known)):
        raise ParameterError(name, unknown, f"a dict of {', '.join(sorted(known))}")
    try:
        return GuidedDecodingParams(**value) if "backend" in value else StructuredOutputsParams(**value)
    except ParameterError as error:
        if error.name not in known:
            raise
        raise ParameterError(f"{name}.{error.name}", error.value, error.allowed) from None


def grammar_of(
    params: StructuredOutputsParams, where: str = "structured_outputs", special: SpecialTokens = NONE
) -> Grammar:
    """What the text must be. Raises GrammarError with the path, from `where` on, of what can't be honoured."""
    (kind,) = params.kinds
    style = JsonStyle(params.whitespace_pattern, params.disable_any_whitespace, params.disable_additional_properties)
    return read_kind(kind, getattr(params, kind), f"{where}.{kind}", style, special)


def read_kind(kind: str, value: Any, where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    """The grammar of one kind, such as "json", of a field that is called `where`. Raises GrammarError."""
    return _READERS[kind](value, where, style, special)


def _read_json(value: Any, where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    return json_schema(_parsed(value, where), where, style)


def _read_regex(pattern: str, where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    _check_length(pattern, where, MAX_PATTERN)
    return grammars.regex(pattern)


def _read_choice(texts: list[Any], where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    if not texts or len(texts) > MAX_CHOICES:
        raise GrammarError(where, f"must have 1 to {MAX_CHOICES} texts, has {len(texts)}")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise GrammarError(f"{where}[{i}]", "must be a text of at least one character")
        _check_length(text, f"{where}[{i}]", MAX_PATTERN)
    return grammars.choice(texts)


def _read_grammar(text: str, where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    return user_grammar(text, where)


def _read_object(value: bool, where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    return json_object(style)


def _read_tag(value: Any, where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    return structural_tag(_parsed(value, where), where, style, special)


def _parsed(value: Any, where: str) -> Any:
    """Texts as the JSON that they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise GrammarError(where, f"is no JSON: {error}") from None


def _check_length(text: str, where: str, longest: int) -> None:
    if len(text) > longest:
        raise GrammarError(where, f"has {len(text)} characters; at most {longest} are allowed")


_OBJECT = "json_object"
_KINDS = ("json", "regex", "choice", "grammar", _OBJECT, "structural_tag")
_WITH_JSON = ("json", _OBJECT, "structural_tag")
_OF_JSON = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")
_TYPES: dict[str, tuple[type, ...]] = {
    "json": (str, dict, bool),
    "regex": (str,),
    "choice": (list,),
    "grammar": (str,),
    "json_object": (bool,),
    "structural_tag": (str, dict),
    "disable_any_whitespace": (bool,),
    "disable_additional_properties": (bool,),
    "whitespace_pattern": (str,),
    "disable_fallback": (bool,),
}
_READERS: dict[str, Callable[[Any, str, JsonStyle, SpecialTokens], Grammar]] = {
    "json": _read_json,
    "regex": _read_regex,
    "choice": _read_choice,
    "grammar": _read_grammar,
    _OBJECT: _read_object,
    "structural_tag": _read_tag,
}
