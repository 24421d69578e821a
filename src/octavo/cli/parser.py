"""argparse, with errors as exceptions, flags of either spelling, and the nearest name for an unknown one."""

from __future__ import annotations

import argparse
import errno
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from octavo.errors import OctavoError, did_you_mean

MAY_BE_EMPTY = {"system", "prompt", "root_path", "reasoning_parser", "tool_parser_plugin", "words"}
_PLAIN = "\0"  # before an argument that is no flag, whatever it looks like; nothing that is typed has it
_KINDS: dict[Any, str] = {int: "an integer", float: "a number"}


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
        """Flags and other arguments in any order; after -- there are no flags. Raises UsageError."""
        end = argv.index("--") if "--" in argv else len(argv)
        words = [*map(with_dashes, argv[:end]), *(_PLAIN + word for word in argv[end + 1 :])]
        args, rest = self.parse_known_intermixed_args(words)
        for word in rest:
            name = word.partition("=")[0]
            if name.startswith("-"):
                raise UsageError(unknown("flag", name, self._option_string_actions, self.prog))
        if rest:
            self.error(f"too many arguments: {rest[0].removeprefix(_PLAIN)!r}")
        return args

    def print_help(self, file: Any = None) -> None:
        """argparse's own forgives a stdout that takes nothing."""
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{shorten(message.removeprefix('argument '))} (see {self.prog} --help)")

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        """argparse's hook for each value. An empty one is a mistake, as of a variable of a script that is not set."""
        text = text.removeprefix(_PLAIN)
        if not text.strip() and action.dest not in MAY_BE_EMPTY:
            raise argparse.ArgumentError(action, "must not be empty")
        try:
            return read_value(self._registry_get("type", action.type, action.type), text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(action, str(error)) from None


def read_value(convert: Callable[[str], Any], text: str) -> Any:
    """What `convert` makes of `text`. Raises ArgumentTypeError, which says what it must be."""
    if convert is Path:
        _check_path(text)
    try:
        return convert(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {_KINDS.get(convert, 'another value')}, got {text!r}") from None


def _check_path(text: str) -> None:
    """Raises ArgumentTypeError for a name that no file can have."""
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise argparse.ArgumentTypeError(f"{error.strerror}: {text}") from None


def shorten(message: str, longest: int = 100) -> str:
    """`message` with the middle left out of what is longer than `longest` between quotes or spaces."""
    return re.sub(rf"[^\s'\"]{{{longest + 1},}}", lambda match: f"{match[0][:40]}…{match[0][-10:]}", message)


def unknown(kind: str, word: str, known: Iterable[str], prog: str) -> str:
    """What to say about a command or flag that does not exist."""
    return f"no such {kind}: {shorten(word)}{did_you_mean(word, known) or f' (see {prog} --help)'}"


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.fill(text, width, break_on_hyphens=False)  # flags stay whole


def with_dashes(arg: str) -> str:
    """--max_model_len is --max-model-len, as for vLLM. Prompts, which have spaces, stay as they are."""
    name, equals, value = arg.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") and " " not in name else arg
