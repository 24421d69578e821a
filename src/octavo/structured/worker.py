"""The process in which grammars are compiled for a first time: it can be killed, which a thread can't.

It reads a vocabulary, then grammars; it answers each with an error, or nothing. See `octavo.structured.rehearsal`.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from typing import BinaryIO

from octavo.structured.tokens import TokenList, compile_lark

MEMORY = 4 << 30  # bytes that it may take


def read_message(stream: BinaryIO) -> bytes | None:
    """A length, and so many bytes; None at the end."""
    head = stream.read(8)
    return stream.read(*struct.unpack("<Q", head)) if len(head) == 8 else None


def message(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def main() -> None:
    given, answers = sys.stdin.buffer, sys.stdout.buffer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    vocabulary = json.loads(read_message(given) or b"{}")
    tokens = [token.encode("latin-1") for token in vocabulary["tokens"]]
    tokenizer = TokenList(tokens, vocabulary["special"], vocabulary["ends"]).llguidance()
    answers.write(message(b""))
    answers.flush()
    while (source := read_message(given)) is not None:
        signal.setitimer(
            signal.ITIMER_PROF, vocabulary["seconds"]
        )  # of the processor; then the signal ends this process
        try:
            compile_lark(tokenizer, source.decode()).compute_bitmask()
            answer = ""
        except Exception as error:
            answer = str(error) or type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(message(answer.encode()))
        answers.flush()


if __name__ == "__main__":
    main()
