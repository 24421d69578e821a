"""Typed access to what a file says under names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from octavo.errors import ModelLoadError


class ConfigReader:
    """The entries of config.json, or of another file. `fail(field, reason)` makes the error for a bad one."""

    def __init__(self, values: Mapping[str, Any], fail: Callable[[str, str], Exception]):
        self.values, self.fail = values, fail

    @classmethod
    def of_file(cls, values: Mapping[str, Any], file: str | os.PathLike[str], prefix: str = "") -> ConfigReader:
        """A bad entry is a ModelLoadError of `file`, which has `prefix` before the names."""
        return cls(values, lambda field, reason: ModelLoadError(file, prefix + field, reason))

    def renamed(self, fields: Mapping[str, str], defaults: Mapping[str, Any]) -> ConfigReader:
        """The same entries under other names: {ours: the file's}. Errors have the file's. Missing ones get defaults."""
        ours = {name: self.values[theirs] for name, theirs in fields.items() if self.values.get(theirs) is not None}
        given = {name: value for name, value in self.values.items() if value is not None}
        return ConfigReader(
            {**self.values, **defaults, **given, **ours},
            lambda field, reason: self.fail(fields.get(field, field) if field in ours else field, reason),
        )

    def _get(self, field: str, default: Any) -> Any:
        value = self.values.get(field)
        return default if value is None else value

    def _must_be(self, what: str, field: str, value: Any) -> Exception:
        return self.fail(field, f"must be {what}, got {value!r}" + (": it is missing" if value is None else ""))

    def integer(self, field: str, default: int | None = None, *, low: int = 1, high: int = 1 << 24) -> int:
        value = self._get(field, default)
        if type(value) is not int or not low <= value <= high:
            raise self._must_be(f"an integer in {low}..{high}", field, value)
        return value

    def integers(self, field: str, *, low: int = 0, high: int = 1 << 24, count: int = 0) -> list[int]:
        """A list of `count` integers or more in low..high; a missing one is empty."""
        values: Any = self._get(field, [])
        if not isinstance(values, list) or not all(type(value) is int and low <= value <= high for value in values):
            raise self._must_be(f"a list of integers in {low}..{high}", field, values)
        if self.values.get(field) is not None and len(values) < count:
            raise self._must_be(f"a list of {count} integers", field, values)
        return values

    def number(self, field: str, default: float | None = None, *, high: float = 1e30) -> float:
        value = self._get(field, default)
        if type(value) not in (int, float) or not 0 < value <= high:
            raise self._must_be(f"a positive number of at most {high:g}", field, value)
        return float(value)

    def flag(self, field: str, default: bool = False) -> bool:
        value = self._get(field, default)
        if not isinstance(value, bool):
            raise self._must_be("true or false", field, value)
        return value

    def text(self, field: str, default: str | None = None) -> str:
        value = self._get(field, default)
        if not isinstance(value, str):
            raise self._must_be("a string", field, value)
        return value

    def object(self, field: str) -> ConfigReader:
        """The entries of an object; of one that is missing there are none."""
        value = self._get(field, {})
        if not isinstance(value, dict):
            raise self._must_be("an object", field, value)
        return ConfigReader(value, lambda inner, reason: self.fail(f"{field}.{inner}", reason))

    def objects(self, field: str) -> list[ConfigReader]:
        """The entries of each object in an object."""
        of_all = self.object(field)
        return [of_all.object(name) for name in of_all.values]
