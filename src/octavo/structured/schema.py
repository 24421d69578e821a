"""JSON schemas as grammars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octavo.structured.grammar import Grammar, of_json_schema


@dataclass(frozen=True, slots=True)
class JsonStyle:
    """How JSON is written: as json.dumps does, ", " and ": ", unless something else is asked for."""

    whitespace_pattern: str | None = None  # a regex of what may stand around punctuation
    compact: bool = False  # no white space at all
    no_additional_properties: bool = False  # objects have those properties alone that the schema names

    @property
    def options(self) -> dict[str, Any]:
        """As llguidance has them."""
        if self.whitespace_pattern is not None:
            return {"whitespace_flexible": True, "whitespace_pattern": self.whitespace_pattern}
        between = "" if self.compact else " "
        return {"whitespace_flexible": False, "item_separator": f",{between}", "key_separator": f":{between}"}


PLAIN = JsonStyle()


def json_schema(schema: Any, where: str, style: JsonStyle = PLAIN) -> Grammar:
    """JSON that fits the schema. Raises GrammarError with the path, which begins with `where`, of a bad keyword."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return of_json_schema({**schema, "x-guidance": style.options})


def json_object(style: JsonStyle = PLAIN) -> Grammar:
    """Any JSON object."""
    return json_schema({"type": "object"}, "", style)
