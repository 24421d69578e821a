"""What the user types: lines, and messages of several lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

FENCE = '"""'
ReadLine = Callable[[str], str]  # shows a prompt and returns a line without its end; raises EOFError


def read_message(read_line: ReadLine) -> str:
    '''One message: a line; lines that end in a backslash and the next; or what is between two """.

    The end of the input ends the message too. Raises EOFError if there is none.
    '''
    first = read_line("> ")
    if first.lstrip().startswith(FENCE):
        begin = first.lstrip().removeprefix(FENCE)
        lines = _read_on(begin, read_line, lambda line: not line.rstrip().endswith(FENCE))
        return "\n".join(lines).rstrip().removesuffix(FENCE).strip("\n")
    lines = _read_on(first, read_line, lambda line: line.endswith("\\"))
    return "\n".join(line.removesuffix("\\") for line in lines).strip()


def _read_on(first: str, read_line: ReadLine, goes_on: Callable[[str], bool]) -> list[str]:
    """A line, and those after it as long as the last one goes on."""
    lines = [first]
    with suppress(EOFError):
        while goes_on(lines[-1]):
            lines.append(read_line("… "))
    return lines


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
