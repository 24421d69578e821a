"""The keywords of JSON Schema, draft 2020-12: what each must be, and which can't be honoured.

llguidance does the work. What it doesn't know is refused here, with its path; what it takes too loosely is mended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from octavo.errors import GrammarError, did_you_mean
from octavo.structured.disjoint import exclude_each_other
from octavo.structured.patterns import strict_pattern

MAX_DEPTH = 64  # of schemas in each other
MAX_NODES = 20_000  # schemas in a schema
MAX_PATTERN = 4096  # characters
MAX_COUNT = 1_000_000  # of items, properties, characters
MAX_DIVISOR = 10_000  # of multipleOf, without its decimal point: the automaton has as many states

ANNOTATIONS = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema"),
    *("contentEncoding", "contentMediaType", "contentSchema", "discriminator"),
}
REFUSED = {
    **dict.fromkeys(("not", "if", "then", "else"), "what a text must not be can't be made a grammar"),
    **dict.fromkeys(("contains", "minContains", "maxContains"), "use items or prefixItems"),
    "uniqueItems": "items can't be compared with each other",
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), "use items or additionalProperties"),
    "propertyNames": "use patternProperties with additionalProperties=false",
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "dependencies"), "use anyOf"),
    **dict.fromkeys(("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"), "use $ref"),
    "$vocabulary": "there is one vocabulary",
    "additionalItems": "is of an older draft; use prefixItems and items",
    "nullable": 'is of OpenAPI; use "type": [..., "null"]',
    "x-guidance": "the white space of JSON is chosen beside the schema",
}
_CONTROL = re.compile(r"(?<!\\)(?:\\\\)*\\u00[01]")  # in JSON: those that have no escape but by number
TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
# Those that llguidance has, and patterns for those in which it takes days and leap seconds that there are not.
FORMATS: dict[str, str | None] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    **dict.fromkeys(("duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")),
}


class Walk:
    """Goes through a schema once."""

    def __init__(self, root: Any, no_additional_properties: bool, has_id: bool):
        """`has_id` says whether references may be to an $id inside the schema."""
        self.root, self.closed, self.has_id = root, no_additional_properties, has_id
        self._nodes = 0

    def schema(self, schema: Any, path: str, depth: int) -> dict[str, Any]:
        """A schema, as llguidance is to have it. Raises GrammarError."""
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise GrammarError(path, f"is deeper than {MAX_DEPTH} schemas in each other")
        if self._nodes > MAX_NODES:
            raise GrammarError(path, f"is one of more than {MAX_NODES} schemas in the schema")
        if schema is True:
            return {}
        if schema is False:
            raise GrammarError(path, "is false, which nothing fits")
        if not isinstance(schema, dict):
            raise _wrong(path, schema, "a schema: an object, true or false")
        checked: dict[str, Any] = {}
        for name, value in schema.items():
            if name not in ANNOTATIONS:
                checked.update(self._keyword(name, value, f"{path}.{name}", depth))
        if (pattern := FORMATS.get(schema.get("format", ""))) is not None:
            checked.pop("format")
            if "pattern" in checked:
                checked["allOf"] = [*checked.get("allOf", []), {"pattern": pattern}]
            else:
                checked["pattern"] = pattern
        if "oneOf" in checked:
            if not exclude_each_other(schema["oneOf"], self.root):
                reason = "needs alternatives of different types, or tagged by a required property with a const"
                raise GrammarError(f"{path}.oneOf", f"{reason}; or use anyOf")
            checked["allOf"] = [*checked.get("allOf", []), {"anyOf": checked.pop("oneOf")}]
        self._check_object(schema, path)
        if self.closed and ("properties" in schema or schema.get("type") == "object"):
            checked.setdefault("additionalProperties", False)
        return checked

    def _keyword(self, name: str, value: Any, path: str, depth: int) -> dict[str, Any]:
        """What is to be said instead of `name: value`."""
        if name in KEYWORDS:
            return {name: KEYWORDS[name](self, value, path, depth + 1)}
        if (name, value) in (("uniqueItems", False), ("nullable", False)):
            return {}
        if name in REFUSED:
            raise GrammarError(path, f"is not supported: {REFUSED[name]}")
        raise GrammarError(path, f"is no keyword of JSON Schema{did_you_mean(name, [*KEYWORDS, *ANNOTATIONS])}")

    def _check_object(self, schema: dict[str, Any], path: str) -> None:
        """A name that comes twice counts once: so many different names can be counted only where they are given."""
        least, required = schema.get("minProperties", 0), schema.get("required", [])
        is_closed = schema.get("additionalProperties", not self.closed) is False and "patternProperties" not in schema
        if least > max(1, len(required)) and not is_closed:
            reason = "more than one, and than are required, can be counted only with additionalProperties=false"
            raise GrammarError(f"{path}.minProperties", f"is not supported: {reason}")


def _schema(walk: Walk, value: Any, path: str, depth: int) -> Any:
    return value if value is False else walk.schema(value, path, depth)


def _schemas(walk: Walk, value: Any, path: str, depth: int) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _wrong(path, value, "a list of at least one schema")
    return [_schema(walk, one, f"{path}[{i}]", depth) for i, one in enumerate(value)]


def _named_schemas(walk: Walk, value: Any, path: str, depth: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, value, "an object of schemas")
    _any(walk, list(value), path, depth)
    return {name: _schema(walk, one, f"{path}.{name}", depth) for name, one in value.items()}


def _patterned_schemas(walk: Walk, value: Any, path: str, depth: int) -> dict[str, Any]:
    named = _named_schemas(walk, value, path, depth)
    return {_pattern(walk, name, f"{path}.{name}", depth): one for name, one in named.items()}


def _type(walk: Walk, value: Any, path: str, depth: int) -> Any:
    for one in value if isinstance(value, list) and value else [value]:
        if one not in TYPES:
            raise _wrong(path, value, f"one of {', '.join(TYPES)}, or a list of them")
    return value


def _count(walk: Walk, value: Any, path: str, depth: int) -> int:
    if not _is_number(value) or value != int(value) or value < 0:
        raise _wrong(path, value, "an integer of at least 0")
    if value > MAX_COUNT:
        raise _wrong(path, value, f"at most {MAX_COUNT}")
    return int(value)


def _number(walk: Walk, value: Any, path: str, depth: int) -> Any:
    if not _is_number(value):
        raise _wrong(path, value, "a number")
    return value


def _divisor(walk: Walk, value: Any, path: str, depth: int) -> Any:
    if not _is_number(value) or value <= 0:
        raise _wrong(path, value, "a number above 0")
    digits = repr(value).replace(".", "").strip("0")
    if "e" in digits or int(repr(value).replace(".", "")) > MAX_DIVISOR:
        raise _wrong(path, value, f"at most {MAX_DIVISOR} without its decimal point")
    return value


def _texts(walk: Walk, value: Any, path: str, depth: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong(path, value, "a list of texts")
    return [_any(walk, one, path, depth) for one in value]


def _text(walk: Walk, value: Any, path: str, depth: int) -> str:
    if not isinstance(value, str):
        raise _wrong(path, value, "a text")
    return value


def _values(walk: Walk, value: Any, path: str, depth: int) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _wrong(path, value, "a list of at least one value")
    return [_any(walk, one, f"{path}[{i}]", depth) for i, one in enumerate(value)]


def _any(walk: Walk, value: Any, path: str, depth: int) -> Any:
    if _CONTROL.search(json.dumps(value)):
        raise GrammarError(path, "has control characters, which are not written")
    return value


def _pattern(walk: Walk, value: Any, path: str, depth: int) -> str:
    if len(_text(walk, value, path, depth)) > MAX_PATTERN:
        raise _wrong(path, f"{len(value)} characters", f"at most {MAX_PATTERN} characters")
    try:
        return strict_pattern(value)
    except ValueError as error:
        raise GrammarError(path, str(error)) from None


def _format(walk: Walk, value: Any, path: str, depth: int) -> str:
    if not isinstance(value, str) or value not in FORMATS:
        raise _wrong(path, value, f"one of {', '.join(sorted(FORMATS))}")
    return value


def _ref(walk: Walk, value: Any, path: str, depth: int) -> str:
    text = _text(walk, value, path, depth)
    if not text.startswith("#") and not walk.has_id:
        raise GrammarError(path, f"is to be inside the schema, as #/$defs/NAME is; nothing is fetched: {text}")
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(path: str, value: Any, allowed: str) -> GrammarError:
    return GrammarError(path, f"must be {allowed}, got {value!r:.80}")


Check = Callable[[Walk, Any, str, int], Any]
KEYWORDS: dict[str, Check] = {
    **dict.fromkeys(("items", "additionalProperties"), _schema),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _schemas),
    **dict.fromkeys(("properties", "$defs", "definitions"), _named_schemas),
    "patternProperties": _patterned_schemas,
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"), _count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    "multipleOf": _divisor,
    "type": _type,
    "enum": _values,
    "const": _any,
    "required": _texts,
    "pattern": _pattern,
    "format": _format,
    "$ref": _ref,
    **dict.fromkeys(("$id", "$anchor"), _text),
}
