"""What is wrong with a field of a request, in one line: its name and index, the limit, and what was got."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from octavo.server.errors import HttpError

MAX_SHOWN = 40  # the most characters shown of a value
MAX_PART = 80  # the most characters shown of a name
Path = tuple[str | int, ...]

# What fields of a type must be, by pydantic's name of the error.
_TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
# What else can be wrong, with the limit and what was got.
_LIMITS: dict[str, Callable[[dict[str, Any], Any], str]] = {
    "greater_than_equal": lambda limit, got: f"must be at least {_number(limit['ge'])}, got {_shown(got)}",
    "greater_than": lambda limit, got: f"must be more than {_number(limit['gt'])}, got {_shown(got)}",
    "less_than_equal": lambda limit, got: f"must be at most {_number(limit['le'])}, got {_shown(got)}",
    "too_short": lambda limit, got: f"must have at least {_count(limit['min_length'], 'entry')}, got {len(got)}",
    "too_long": lambda limit, got: f"must have at most {_count(limit['max_length'], 'entry')}, got {len(got)}",
    "string_too_short": lambda limit, got: f"must have at least {_count(limit['min_length'])}, got {len(got)}",
    "string_too_long": lambda limit, got: f"must have at most {_count(limit['max_length'])}, got {len(got)}",
    "literal_error": lambda limit, got: f"must be {limit['expected']}, got {_shown(got)}",
    "string_pattern_mismatch": lambda limit, got: f"must match {limit['pattern']}, got {_shown(got)}",
    "value_error": lambda limit, got: str(limit["error"]),
    "missing": lambda limit, got: "this field is required",
    "union_tag_invalid": lambda limit, got: f"must have a type of {_kinds(limit['expected_tags'])}, got {_kind(got)}",
}
# A member of a union, as pydantic calls it.
_MEMBER = re.compile(
    r"(constrained-)?(str|int|float|bool|list|dict|literal|Document|NamedTool|AllowedToolsChoice)(\[.*\])?|<.*>",
    re.DOTALL,
)


def validation_error(error: ValidationError) -> HttpError:
    """The error of the first field that is wrong."""
    found = error.errors(include_url=False)
    path, errors = _furthest([one for one in found if one["loc"][:1] == found[0]["loc"][:1]])
    first = next((one for one in errors if one["type"] not in _TYPES), errors[0])
    context = first.get("ctx", {})
    if "name" in context:  # the field is not known or not supported
        path = (*path, context["name"])
        return HttpError(f"{_spelled(path)} {context['reason']}", _param(path), code=first["type"])
    if first["type"] in _TYPES:
        wanted = list(dict.fromkeys(_TYPES[one["type"]] for one in errors))
        any_of = " or ".join(filter(None, [", ".join(wanted[:-1]), wanted[-1]]))
        reason, code = f"must be {any_of}, got {_shown(first['input'])}", "invalid_type"
    else:
        describe = _LIMITS.get(first["type"])
        reason = describe(context, first["input"]) if describe else first["msg"]
        code = "missing_field" if first["type"] == "missing" else "invalid_value"
    return HttpError(f"{_spelled(path)}: {reason}" if path else reason, _param(path), code=code)


def _furthest(errors: list[ErrorDetails]) -> tuple[Path, list[ErrorDetails]]:
    """The errors of the value that was reached last, and its path.

    Every member of a union complains; the one that got furthest into the value is the one that was meant.
    """
    paths = [_path(one["loc"]) for one in errors]
    path = max(paths, key=lambda path: (len(path), [part for part in path if isinstance(part, int)]))
    return path, [one for one, its_path in zip(errors, paths, strict=True) if its_path == path]


def _path(location: Path) -> Path:
    """Names and indices, without pydantic's names of a union's members."""
    return tuple(part for part in location if isinstance(part, int) or not _MEMBER.fullmatch(part))


def _spelled(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part[:MAX_PART]}" for part in path).removeprefix(".")


def _param(path: Path) -> str | None:
    """The names alone, as clients compare them."""
    return ".".join(part[:MAX_PART] for part in path if isinstance(part, str)) or None


def _kinds(tags: str) -> str:
    """The tags of `kind_of` in pydantic's list."""
    *others, last = re.findall(r"<(\w+)>", tags)
    return f"{', '.join(others)} or {last}" if others else last


def _kind(value: Any) -> str:
    return _shown(value.get("type")) if isinstance(value, dict) else _shown(value)


def _count(number: int, unit: str = "character") -> str:
    plural = "entries" if unit == "entry" else f"{unit}s"
    return f"{number} {unit if number == 1 else plural}"


def _number(limit: float) -> str:
    return str(int(limit) if limit == int(limit) else limit)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value[: MAX_SHOWN + 1] if isinstance(value, str) else value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN + 2 else f"{text[:MAX_SHOWN]}…"
