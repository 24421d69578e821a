"""argparse, with errors as exceptions, flags of either spelling, and the nearest name for an unknown one."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from octavo.errors import OctavoError


class UsageError(OctavoError):
    """The command line can't be understood."""


class Parser(argparse.ArgumentParser):
    """The flags of one command. What is not typed is not in the namespace, unless it has a default."""

    def __init__(self, prog: str, usage: str, description: str):
        super().__init__(
            prog,
            f"{prog} {usage}",
            description,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=_Help,
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Flags and other arguments in any order. Raises UsageError."""
        args, rest = self.parse_known_intermixed_args([_with_dashes(arg) for arg in argv])
        for word in rest:
            name = word.partition("=")[0]
            if name.startswith("-"):
                raise UsageError(unknown("flag", name, self._option_string_actions, self.prog))
        if rest:
            self.error(f"too many arguments: {rest[0]!r}")
        return args

    def print_help(self, file: Any = None) -> None:
        """argparse's own forgives a stdout that takes nothing."""
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def unknown(kind: str, word: str, known: Iterable[str], prog: str) -> str:
    """What to say about a command or flag that does not exist."""
    near = difflib.get_close_matches(word, list(known), 1)
    advice = f"; did you mean {near[0]}?" if near else f" (see {prog} --help)"
    return f"no such {kind}: {word}{advice}"


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.fill(text, width, break_on_hyphens=False)  # flags stay whole


def _with_dashes(arg: str) -> str:
    """--max_model_len is --max-model-len, as for vLLM. Prompts, which have spaces, stay as they are."""
    name, equals, value = arg.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") and " " not in name else arg
