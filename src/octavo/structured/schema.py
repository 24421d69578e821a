"""JSON schemas as grammars: checked keyword by keyword, so that nothing that a schema says is ignored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from octavo.errors import GrammarError
from octavo.structured.grammar import Grammar, of_json_schema
from octavo.structured.keywords import KEYWORDS, REFUSED, Walk

MAX_SCHEMA = 1 << 20  # characters of its JSON


@dataclass(frozen=True, slots=True)
class JsonStyle:
    """How JSON is written: as json.dumps does, ", " and ": ", unless something else is asked for."""

    whitespace_pattern: str | None = None  # a regex of what may stand around punctuation
    compact: bool = False  # no white space at all
    no_additional_properties: bool = False  # objects have those properties alone that the schema names

    @property
    def options(self) -> dict[str, Any]:
        """As llguidance has them."""
        # A name must be spelled in one way: with \u it could be that of another property in disguise.
        escapes = {"json_allowed_escapes": 'nrbtf\\"'}
        if self.whitespace_pattern is not None:
            return {"whitespace_flexible": True, "whitespace_pattern": self.whitespace_pattern, **escapes}
        between = "" if self.compact else " "
        separators = {"item_separator": f",{between}", "key_separator": f":{between}"}
        return {"whitespace_flexible": False, **separators, **escapes}


PLAIN = JsonStyle()


def json_schema(schema: Any, where: str, style: JsonStyle = PLAIN) -> Grammar:
    """JSON that fits a schema of draft 2020-12.

    Raises GrammarError with the path, from `where` on, of a keyword that is unknown, malformed or can't be honoured.
    """
    checked = check_schema(schema, where, style.no_additional_properties)
    return of_json_schema({**checked, "x-guidance": style.options})


def json_object(style: JsonStyle = PLAIN) -> Grammar:
    """Any JSON object."""
    return json_schema({"type": "object"}, "json_object", style)


def check_schema(schema: Any, where: str, no_additional_properties: bool = False) -> dict[str, Any]:
    """The schema as llguidance is to have it: without annotations, and with what it takes too loosely made strict."""
    try:
        text = json.dumps(schema, allow_nan=False)
        plain = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError(where, f"is no JSON schema: {error}") from None
    if len(text) > MAX_SCHEMA:
        raise GrammarError(where, f"has {len(text)} characters; a schema may have {MAX_SCHEMA}")
    return Walk(plain, no_additional_properties, _has_id(plain)).schema(plain, where, depth=0)


def supported_keywords() -> dict[str, str]:
    """Every known keyword, and what becomes of it, for the docs."""
    return {**dict.fromkeys(KEYWORDS, "honoured"), **{name: f"refused: {why}" for name, why in REFUSED.items()}}


def _has_id(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_has_id, schema))
    return isinstance(schema, dict) and ("$id" in schema or any(map(_has_id, schema.values())))
