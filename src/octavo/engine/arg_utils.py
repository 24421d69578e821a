"""`EngineArgs`: the options of `LLM` as an object, as scripts written for vLLM make and pass them."""

from __future__ import annotations

import argparse
from dataclasses import field, fields, make_dataclass
from typing import Any

from octavo.config import EngineConfig
from octavo.options import NOTED, REFUSED

_NAMES = ("model", *(f.name for f in fields(EngineConfig) if f.name != "model"), *REFUSED, *NOTED)
_Options: Any = make_dataclass("_Options", [(name, Any, field(default=None)) for name in _NAMES])


class EngineArgs(_Options):  # type: ignore[misc]
    """A dataclass of every option that `LLM` knows, see there. None is one that was not said.

    They are checked when an engine is made: by `LLM(**vars(args))`, `LLM.from_engine_args(args)` or
    `create_engine_config()`.
    """

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Adds a flag for each option; what is not typed is None. Returns `parser`."""
        from octavo.cli.options import add_engine_flags  # commands stand above the engine

        add_engine_flags(parser)
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> EngineArgs:
        """The options among parsed arguments; others are left out."""
        return cls(**{name: getattr(args, name) for name in _NAMES if hasattr(args, name)})

    def create_engine_config(self) -> EngineConfig:
        """Raises ConfigError or UnsupportedError, naming the option."""
        return EngineConfig.from_options(vars(self))


class AsyncEngineArgs(EngineArgs):
    """The same for `AsyncLLM`."""
