"""What a request says of the structure of its answer: OpenAI's `response_format` and vLLM's fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from octavo.errors import GrammarError, ParameterError
from octavo.server.errors import HttpError
from octavo.structured.grammar import Grammar, SpecialTokens
from octavo.structured.params import grammar_of, read_kind, read_params
from octavo.structured.schema import JsonStyle, json_object, json_schema

NamedGrammar = tuple[str, Callable[[SpecialTokens], Grammar]]  # the name of a field, and what makes its grammar


class StructureFields(BaseModel):
    """Of these fields at most one asks for something."""

    response_format: dict[str, Any] | None = Field(None, description="text, json_object, json_schema or structural_tag")
    structured_outputs: dict[str, Any] | None = Field(None, description="what the text must be, as vLLM has it")
    guided_json: dict[str, Any] | str | bool | None = Field(None, description="a JSON schema")
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = Field(None, description="a regex of the white space in JSON")
    guided_decoding_backend: str | None = Field(None, description="any name: llguidance is used")
    GUIDED: ClassVar[tuple[str, ...]] = ("json", "regex", "choice", "grammar")

    def grammar(self) -> NamedGrammar | None:
        """What the answer must be, and how the field is called that says it. Raises HttpError for several.

        To make it may take tens of milliseconds, and raises GrammarError or ParameterError.
        """
        asked = list(self._asked())
        if len(asked) > 1:
            names = ", ".join(name for name, _ in asked)
            raise HttpError(f"{names}: only one of them can say what the answer is", asked[1][0], code="invalid_value")
        name = "guided_whitespace_pattern"
        if getattr(self, name) is not None and {one for one, _ in asked} - {"response_format", "guided_json"}:
            raise HttpError(f"{name}: only with guided_json or response_format", name, code="invalid_value")
        return asked[0] if asked else None

    def _asked(self) -> Iterator[NamedGrammar]:
        if self.response_format is not None and self.response_format.get("type") != "text":
            yield "response_format", partial(read_format, self.response_format, "response_format", self._style)
        if self.structured_outputs:
            yield "structured_outputs", self._read_structured_outputs
        for kind in self.GUIDED:
            if (value := getattr(self, f"guided_{kind}")) is not None:
                yield f"guided_{kind}", partial(read_kind, kind, value, f"guided_{kind}", self._style)

    def _read_structured_outputs(self, special: SpecialTokens) -> Grammar:
        params = read_params("structured_outputs", self.structured_outputs)
        assert params is not None
        return grammar_of(params, "structured_outputs", special)

    @property
    def _style(self) -> JsonStyle:
        return JsonStyle(self.guided_whitespace_pattern)


def read_format(value: dict[str, Any], where: str, style: JsonStyle, special: SpecialTokens) -> Grammar:
    """OpenAI's response_format, and its variants with a bare `schema`. Raises GrammarError."""
    kind = value.get("type")
    if kind == "json_object" and "schema" not in value:
        return json_object(style)
    if kind in ("json_schema", "json_object"):
        schema, path = _schema_of(value, where)
        return json_schema(schema, path, style)
    if kind == "structural_tag":
        return read_kind("structural_tag", value, where, style, special)
    allowed = "one of text, json_object, json_schema, structural_tag"
    raise GrammarError(f"{where}.type", f"must be {allowed}, got {kind!r:.80}")


def _schema_of(value: dict[str, Any], where: str) -> tuple[Any, str]:
    """The schema of a format, and its path."""
    if "json_schema" not in value:
        if "schema" in value:
            return value["schema"], f"{where}.schema"
        raise GrammarError(f"{where}.json_schema", "is missing")
    inner, path = value["json_schema"], f"{where}.json_schema"
    if not isinstance(inner, dict):
        raise ParameterError(path, inner, "an object with a schema")
    for name, kinds in (("name", str), ("description", str), ("strict", bool)):
        if inner.get(name) is not None and not isinstance(inner[name], kinds):
            raise ParameterError(f"{path}.{name}", inner[name], f"a {kinds.__name__}")
    if "schema" in inner:
        if unknown := sorted(inner.keys() - {"name", "description", "strict", "schema"}):
            raise GrammarError(f"{path}.{unknown[0]}", "is not known here; no field is ignored")
        return inner["schema"], f"{path}.schema"
    if inner.keys() <= {"name", "description", "strict"}:
        raise GrammarError(f"{path}.schema", "is missing")
    return {name: one for name, one in inner.items() if name not in ("name", "strict")}, path
