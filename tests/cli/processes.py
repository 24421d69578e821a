"""The command in a process of its own, with pipes or on a terminal."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import pyte

COMMAND = [sys.executable, "-m", "octavo"]
# Without the size of the terminal that the tests may run on: it is not that of theirs.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
ENVIRONMENT |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}


def octavo(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What the command does in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, text=True, timeout=60, env=ENVIRONMENT
    )


def hear_interrupts() -> None:
    """A shell's background jobs, and what they start, are deaf to Ctrl-C; the command must not be."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """The command on a terminal of `ROWS` times `COLUMNS`, of which `lines` are what a user sees."""

    ROWS, COLUMNS, SECONDS = 40, 80, 30

    def __init__(self, *arguments: str):
        self._screen = pyte.Screen(self.COLUMNS, self.ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._file, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", self.ROWS, self.COLUMNS, 0, 0))
        environment = {**ENVIRONMENT, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(other)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._file)

    @property
    def lines(self) -> list[str]:
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    def wait(self, is_there: Callable[[list[str]], bool]) -> list[str]:
        """Reads until `is_there(lines)`, and returns the lines."""
        end = time.monotonic() + self.SECONDS
        while not is_there(self.lines):
            assert time.monotonic() < end, self.lines
            self._read(0.05)
        return self.lines

    def _read(self, seconds: float) -> bool:
        """Shows what the command writes within that time; whether there was anything."""
        if not select.select([self._file], [], [], seconds)[0]:
            return False
        with contextlib.suppress(OSError):  # of a terminal that the command has left
            self._stream.feed(os.read(self._file, 1 << 16))
        return True

    def resize(self, rows: int, columns: int) -> None:
        """Wraps the lines anew, as a window of another size does in most terminals, and tells the command.

        What it has written until it pauses was for the size before.
        """
        while self._read(0.3):
            pass
        x, y = self._screen.cursor.x, self._screen.cursor.y
        lines = [line.rstrip() for line in self._screen.display[: max(y + 1, len(self.lines))]]
        pieces = [[line[i : i + columns] for i in range(0, max(1, len(line)), columns)] for line in lines]
        row = sum(map(len, pieces[:y])) + x // columns
        wrapped = [piece for line in pieces for piece in line]
        hidden = max(0, len(wrapped) - rows)
        self._screen.resize(rows, columns)
        self._stream.feed(b"\x1b[2J\x1b[H" + "\r\n".join(wrapped[hidden:]).encode())
        self._stream.feed(f"\x1b[{row - hidden + 1};{x % columns + 1}H".encode())
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def leave(self) -> int:
        """Types Ctrl-D, and returns the exit code."""
        self.type("\x04")
        return self.process.wait(self.SECONDS)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C becomes SIGINT
    hear_interrupts()
