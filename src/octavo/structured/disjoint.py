"""Whether schemas exclude each other: then `oneOf` says no more than `anyOf`."""

from __future__ import annotations

from itertools import combinations
from typing import Any

MOST = 256  # alternatives that are compared with each other
_REFS = 16  # references that are followed to one schema


def exclude_each_other(schemas: list[Any], root: Any) -> bool:
    """Whether that can be shown: by types, or by a required property whose values differ, as tagged unions have it."""
    if len(schemas) > MOST:
        return False
    resolved = [_resolve(schema, root) for schema in schemas]
    return all(_exclude(one, other) for one, other in combinations(resolved, 2))


def _resolve(schema: Any, root: Any) -> Any:
    for _ in range(_REFS):
        if not isinstance(schema, dict) or not str(schema.get("$ref", "")).startswith("#/"):
            return schema
        target = root
        for part in schema["$ref"][2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        schema = target
    return None


def _exclude(one: Any, other: Any) -> bool:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return one is False or other is False
    types = _types(one), _types(other)
    if None not in types and not set(types[0] or ()) & set(types[1] or ()):
        return True
    if types != ({"object"}, {"object"}):
        return _differ(one, other)
    mine, others = one.get("properties"), other.get("properties")
    if not (isinstance(mine, dict) and isinstance(others, dict)):
        return False
    required = set(one.get("required", ())) & set(other.get("required", ()))
    return any(_differ(mine.get(name), others.get(name)) for name in required)


def _types(schema: dict[str, Any]) -> set[str] | None:
    """All types that a schema allows, if it says so; integers are numbers."""
    said = schema.get("type")
    if said is None:
        return None
    return {"number" if one == "integer" else one for one in (said if isinstance(said, list) else [said])}


def _differ(one: Any, other: Any) -> bool:
    """Whether two schemas list texts, none of them in both."""
    values = _texts(one), _texts(other)
    return None not in values and not set(values[0] or ()) & set(values[1] or ())


def _texts(schema: Any) -> list[str] | None:
    if not isinstance(schema, dict):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None
