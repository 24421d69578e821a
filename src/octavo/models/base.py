"""What a model declaration is: a class that reads a configuration and builds a graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from octavo.errors import ModelLoadError
from octavo.graph.builder import Graph


class ConfigReader:
    """Typed access to a checkpoint's config.json. `fail(field, reason)` makes the error for a bad entry."""

    def __init__(self, values: Mapping[str, Any], fail: Callable[[str, str], Exception]):
        self.values, self._fail = values, fail

    @classmethod
    def of_file(cls, values: Mapping[str, Any], file: str | os.PathLike[str]) -> ConfigReader:
        """A bad entry is a ModelLoadError of `file`."""
        return cls(values, lambda field, reason: ModelLoadError(file, field, reason))

    def fail(self, field: str, reason: str) -> Exception:
        return self._fail(field, reason)

    def integer(self, field: str, default: int | None = None, *, low: int = 1, high: int = 1 << 24) -> int:
        value = self.values.get(field)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(field, f"must be an integer in {low}..{high}, got {value!r}")
        return value

    def integers(self, field: str, *, low: int = 0, high: int = 1 << 24) -> list[int]:
        """A list of integers in low..high; a missing one is empty."""
        values = self.values.get(field)
        values = [] if values is None else values
        if not isinstance(values, list) or not all(type(value) is int and low <= value <= high for value in values):
            raise self.fail(field, f"must be a list of integers in {low}..{high}, got {values!r}")
        return values

    def number(self, field: str, default: float | None = None, *, high: float = 1e30) -> float:
        value = self.values.get(field)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high:
            raise self.fail(field, f"must be a positive number of at most {high:g}, got {value!r}")
        return float(value)

    def flag(self, field: str, default: bool = False) -> bool:
        value = self.values.get(field)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.fail(field, f"must be true or false, got {value!r}")
        return value


class CausalLM:
    """A language model that predicts the next token. Subclasses declare one architecture each.

    `architectures` are the names that config.json uses.
    """

    architectures: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[str] = "text"  # what its prompts are, for whoever reads them

    vocab_size: int
    max_positions: int  # the context that the model was trained on
    longest_positions: int  # the longest that its rotary embedding can be stretched to
    source_positions: int = 0  # of what its encoder reads, if it has one

    def __init__(self, config: ConfigReader, max_model_len: int | None = None):
        raise NotImplementedError

    @property
    def ignored(self) -> tuple[str, ...]:
        """Patterns of tensors that checkpoints may have and that the model does not need."""
        return ()

    def build(self) -> Graph:
        """The model's graph: token ids in, logits out."""
        raise NotImplementedError

    def build_encoder(self) -> Graph | None:
        """The graph of its encoder, if it has one: a source in, keys and values for cross attention stored."""
        return None
