"""Structural tags, in both of vLLM's forms: texts of which the parts between tags have a structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from octavo.errors import GrammarError
from octavo.structured import grammar as grammars
from octavo.structured.ebnf import user_grammar
from octavo.structured.grammar import Grammar, SpecialTokens, any_text, either, literal, repeated, sequence, until
from octavo.structured.schema import JsonStyle, json_schema

MAX_TAGS = 1024
MAX_DEPTH = 16  # of formats in each other


def structural_tag(value: Any, where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    """{"structures": [{begin, schema, end}], "triggers": […]}, or {"format": …}. Raises GrammarError."""
    fields = _object(value, where, {"type", "structures", "triggers", "format"})
    if fields.get("type", "structural_tag") != "structural_tag":
        raise GrammarError(f"{where}.type", "must be structural_tag")
    reader = _Reader(style, special)
    if "format" in fields:
        _object(value, where, {"type", "format"})
        return reader.format(fields["format"], f"{where}.format", 0, is_last=True)
    tags = [
        reader.structure(one, f"{where}.structures[{i}]")
        for i, one in enumerate(_list(fields.get("structures"), f"{where}.structures"))
    ]
    return reader.triggered(fields.get("triggers"), tags, where)


@dataclass(frozen=True, slots=True)
class _Tag:
    """What begins a part, and what follows that beginning."""

    begin: str
    rest: Grammar
    path: str


class _Reader:
    def __init__(self, style: JsonStyle, special: SpecialTokens):
        self.style, self.special = style, special
        self._formats: dict[str, Callable[[dict[str, Any], str, int], Grammar]] = {
            "const_string": self._const_string,
            "json_schema": self._json_schema,
            "regex": self._regex,
            "grammar": self._grammar,
            "tag": self._tag,
            "triggered_tags": self._triggered_tags,
            "tags_with_separator": self._tags_with_separator,
        }

    def format(self, value: Any, path: str, depth: int, is_last: bool = False) -> Grammar:
        """A format; free text must be the last of all, or stand between the two ends of a tag."""
        if depth > MAX_DEPTH:
            raise GrammarError(path, f"is deeper than {MAX_DEPTH} formats in each other")
        if not isinstance(value, dict):
            raise GrammarError(path, "must be an object")
        kind = value.get("type")
        if kind in ("any_text", "triggered_tags") and not is_last:
            raise GrammarError(path, "has free text, which may only be the last part, or all that is in a tag")
        if kind == "any_text":
            _object(value, path, {"type"})
            return any_text()
        if kind in ("sequence", "or"):
            return self._several(value, path, depth, is_last)
        if not isinstance(kind, str) or kind not in self._formats:
            known = ", ".join(["any_text", "sequence", "or", *self._formats])
            raise GrammarError(f"{path}.type", f"must be one of {known}, got {kind!r:.80}")
        return self._formats[kind](value, path, depth)

    def structure(self, value: Any, path: str) -> _Tag:
        """One of the old form."""
        fields = _object(value, path, {"begin", "schema", "end"})
        begin, end = (_text(fields.get(name, ""), f"{path}.{name}") for name in ("begin", "end"))
        content = json_schema(fields.get("schema", True), f"{path}.schema", self.style)
        return _Tag(begin, sequence(content, literal(end, self.special)), path)

    def triggered(
        self, triggers: Any, tags: list[_Tag], path: str, at_least_one: bool = False, stop_after_first: bool = False
    ) -> Grammar:
        """Free text, in which a trigger begins one of its tags."""
        known = [_text(one, f"{path}.triggers[{i}]") for i, one in enumerate(_list(triggers, f"{path}.triggers"))]
        for tag in tags:
            if not tag.begin.startswith(tuple(known)):
                raise GrammarError(f"{tag.path}.begin", "must begin with one of the triggers")
        parts = []
        for trigger in known:
            begun = [
                sequence(literal(tag.begin.removeprefix(trigger), self.special), tag.rest)
                for tag in tags
                if tag.begin.startswith(trigger)
            ]
            if begun:
                parts.append(sequence(self._until(trigger, path), either(*begun)))
        found = either(*parts)
        if stop_after_first:
            return found if at_least_one else either(found, any_text())
        return sequence(repeated(found, int(at_least_one)), any_text())

    def _several(self, value: dict[str, Any], path: str, depth: int, is_last: bool) -> Grammar:
        join = sequence if value["type"] == "sequence" else either
        elements = _list(_object(value, path, {"type", "elements"}).get("elements"), f"{path}.elements")
        last = len(elements) - 1
        return join(
            *(
                self.format(one, f"{path}.elements[{i}]", depth + 1, is_last and (join is either or i == last))
                for i, one in enumerate(elements)
            )
        )

    def _const_string(self, value: dict[str, Any], path: str, depth: int) -> Grammar:
        return literal(_text(_object(value, path, {"type", "value"}).get("value"), f"{path}.value"), self.special)

    def _json_schema(self, value: dict[str, Any], path: str, depth: int) -> Grammar:
        fields = _object(value, path, {"type", "json_schema"})
        return json_schema(fields.get("json_schema", True), f"{path}.json_schema", self.style)

    def _regex(self, value: dict[str, Any], path: str, depth: int) -> Grammar:
        return grammars.regex(_text(_object(value, path, {"type", "pattern"}).get("pattern"), f"{path}.pattern"))

    def _grammar(self, value: dict[str, Any], path: str, depth: int) -> Grammar:
        text = _text(_object(value, path, {"type", "grammar"}).get("grammar"), f"{path}.grammar")
        return user_grammar(text, f"{path}.grammar")

    def _tag(self, value: dict[str, Any], path: str, depth: int) -> Grammar:
        tag = self._read_tag(value, path, depth)
        return sequence(literal(tag.begin, self.special), tag.rest)

    def _triggered_tags(self, value: dict[str, Any], path: str, depth: int) -> Grammar:
        fields = _object(value, path, {"type", "triggers", "tags", "at_least_one", "stop_after_first"})
        tags = self._read_tags(fields, path, depth)
        return self.triggered(fields.get("triggers"), tags, path, *_flags(fields, path))

    def _tags_with_separator(self, value: dict[str, Any], path: str, depth: int) -> Grammar:
        fields = _object(value, path, {"type", "tags", "separator", "at_least_one", "stop_after_first"})
        tags = self._read_tags(fields, path, depth)
        at_least_one, stop_after_first = _flags(fields, path)
        one = either(*(sequence(literal(tag.begin, self.special), tag.rest) for tag in tags))
        separator = literal(_text(fields.get("separator"), f"{path}.separator"), self.special)
        found = one if stop_after_first else sequence(one, repeated(sequence(separator, one)))
        return found if at_least_one else repeated(found, 0, 1)

    def _read_tags(self, fields: dict[str, Any], path: str, depth: int) -> list[_Tag]:
        tags = _list(fields.get("tags"), f"{path}.tags")
        return [self._read_tag(one, f"{path}.tags[{i}]", depth) for i, one in enumerate(tags)]

    def _read_tag(self, value: Any, path: str, depth: int) -> _Tag:
        fields = _object(value, path, {"type", "begin", "content", "end"})
        begin, end = (_text(fields.get(name), f"{path}.{name}") for name in ("begin", "end"))
        content = fields.get("content")
        if isinstance(content, dict) and content.get("type") == "any_text" and end:
            return _Tag(begin, self._until(end, path), path)
        inner = self.format(content, f"{path}.content", depth + 1)
        return _Tag(begin, sequence(inner, literal(end, self.special)), path)

    def _until(self, mark: str, path: str) -> Grammar:
        if not mark:
            raise GrammarError(path, "has an empty trigger or end after free text")
        try:
            return until(mark, self.special)
        except ValueError as error:
            raise GrammarError(path, str(error)) from None


def _flags(fields: dict[str, Any], path: str) -> Iterable[bool]:
    for name in ("at_least_one", "stop_after_first"):
        value = fields.get(name, False)
        if not isinstance(value, bool):
            raise GrammarError(f"{path}.{name}", "must be true or false")
        yield value


def _object(value: Any, path: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GrammarError(path, "must be an object")
    if unknown := sorted(map(str, value.keys() - known)):
        raise GrammarError(f"{path}.{unknown[0]}", f"is not known here, where there are {', '.join(sorted(known))}")
    return value


def _list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TAGS:
        raise GrammarError(path, f"must be a list of 1 to {MAX_TAGS} entries")
    return value


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise GrammarError(path, "must be a text of at most 4096 characters")
    return value
