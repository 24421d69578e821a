"""Tries whether a grammar can be compiled within limits of time and memory, in a process that can be killed."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress

from octavo.structured.tokens import TokenList
from octavo.structured.worker import MEMORY, message

CPU_SECONDS = 2.0  # of the processor for one grammar; it is compiled twice, here and there
SECONDS = 4.0  # for one grammar, however busy the machine is
START_SECONDS = 30.0  # for the process to begin


class Rehearsal:
    """Has the process, which begins with the first grammar, and again after one that had to be killed."""

    def __init__(self, vocabulary: TokenList):
        self._vocabulary = vocabulary
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Rehearsal] | None = None

    def why_not(self, source: str) -> str:
        """Why the grammar can't be compiled; nothing if it can."""
        try:
            if self._process is None:
                self._begin()
            return self._ask(source.encode(), SECONDS)
        except TimeoutError:
            self._stop()
            return f"compiling it takes more than {SECONDS:g} s"
        except (EOFError, OSError):
            if self._stop() == -signal.SIGPROF:
                return f"compiling it takes more than {CPU_SECONDS:g} s"
            return f"compiling it takes more than {MEMORY >> 30} GiB of memory, or fails badly"

    def _begin(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "octavo.structured.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for its parent
        )
        self._end = weakref.finalize(self, _kill, self._process)
        vocabulary = {
            "tokens": [token.decode("latin-1") for token in self._vocabulary.tokens],
            "special": self._vocabulary.special_token_ids,
            "ends": self._vocabulary.eos_token_ids,
            "seconds": CPU_SECONDS,
        }
        self._ask(json.dumps(vocabulary).encode(), START_SECONDS)

    def _stop(self) -> int | None:
        """Ends the process; its exit status."""
        process, self._process = self._process, None
        if process is None or self._end is None:
            return None
        with suppress(subprocess.TimeoutExpired):  # where it has ended already, how is told
            process.wait(0.1)
        self._end()
        return process.returncode

    def _ask(self, data: bytes, seconds: float) -> str:
        """Raises TimeoutError, EOFError or OSError."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(message(data))
        self._process.stdin.flush()
        deadline, file = time.monotonic() + seconds, self._process.stdout.fileno()
        size = int.from_bytes(_read(file, 8, deadline), "little")
        return _read(file, size, deadline).decode(errors="replace")


def _read(file: int, count: int, deadline: float) -> bytes:
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        while len(data) < count:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = os.read(file, count - len(data))
            if not part:
                raise EOFError
            data += part
    return data


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):  # about what it has not read
                stream.close()
