"""What the user types: lines, and messages of several lines."""

from __future__ import annotations

import sys
from collections.abc import Callable

FENCE = '"""'
ReadLine = Callable[[str], str]  # shows a prompt and returns a line without its end; raises EOFError


def read_message(read_line: ReadLine) -> str:
    '''One message: a line; lines that end in a backslash and the next; or what is between two """.

    The end of the input ends the message too. Raises EOFError if there is none.
    '''
    first = read_line("> ")
    if first.lstrip().startswith(FENCE):
        return _read_block(first.lstrip().removeprefix(FENCE), read_line)
    lines = [first]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        try:
            lines.append(read_line("… "))
        except EOFError:
            break
    return "\n".join(lines).strip()


def _read_block(rest: str, read_line: ReadLine) -> str:
    lines = [rest]
    while not lines[-1].rstrip().endswith(FENCE):
        try:
            lines.append(read_line("… "))
        except EOFError:
            break
    return "\n".join(lines).rstrip().removesuffix(FENCE).strip("\n")


def line_reader(on_terminal: bool) -> ReadLine:
    """Reads stdin: on a terminal with editing, history and pasting of several lines."""
    if not on_terminal:
        return _read_plain
    try:
        import readline  # from now on input() edits
    except ImportError:
        return input
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")
    return input


def _read_plain(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")
