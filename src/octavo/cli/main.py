"""The `octavo` command. A command's module is imported when it is called: `octavo --help` loads nothing heavy."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from octavo import __version__
from octavo.errors import OctavoError

COMMANDS = {
    "run": ("octavo.cli.run", "answer a prompt"),
    "pull": ("octavo.cli.pull", "fetch a model ahead of time"),
    "bench": ("octavo.cli.bench", "measure this machine with a model"),
}


class Parser(argparse.ArgumentParser):
    """Errors are one line with the nearest known spelling, exit code 2. Flags are never abbreviated."""

    def __init__(self, *args: object, **kwargs: object):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0] if "unrecognized" in message else ""
        known = [flag for action in self._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown.split("=")[0], known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help"
        print(f"{self.prog}: {message}{hint}", file=sys.stderr)
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, or 2 for a user's mistake, or 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="octavo: %(message)s", level=logging.WARNING)
    try:
        return _dispatch(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OctavoError as error:
        print(f"octavo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        print(f"octavo {__version__}")
        return 0
    if args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"commands are {', '.join(COMMANDS)}"
        print(f"octavo: no such command: {args[0]!r}; {hint}", file=sys.stderr)
        return 2
    command = import_module(COMMANDS[args[0]][0])
    return int(command.main(args[1:]))


def _overview() -> str:
    lines = [f"  octavo {name:6} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: octavo COMMAND …",
            "",
            *lines,
            "",
            "octavo COMMAND --help tells a command's options; octavo --version the version.",
        ]
    )
