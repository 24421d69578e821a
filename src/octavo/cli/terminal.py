"""Text of models and servers on a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Control characters but for newline and tab: what a model writes must not move cursors or change titles.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` without control characters, which terminals obey."""
    return _CONTROLS.sub("", text)


def write(text: str) -> None:
    """Writes to stdout at once; to a terminal only what is printable."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def use_any_text() -> None:
    """What stdout's encoding lacks is replaced; what stdin has of bytes that are no text, too."""
    for stream in (sys.stdout, sys.stdin):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextmanager
def keys_unseen() -> Iterator[None]:
    """What is typed meanwhile, Ctrl-C too, is not shown, as it would move the cursor; it is kept for the next line."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    now = before.copy()
    now[3] &= ~termios.ECHO  # local modes
    termios.tcsetattr(sys.stdin, termios.TCSANOW, now)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
