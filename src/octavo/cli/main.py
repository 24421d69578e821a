"""The `octavo` command: finds the subcommand, runs it, and makes one line of what goes wrong.

Start-up counts: a subcommand's module is imported when it is called, and nothing heavy before that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module

from octavo.cli.parser import UsageError, shorten, unknown
from octavo.cli.streams import drop_output, open_closed_streams, what_failed
from octavo.errors import OctavoError

COMMANDS = {
    "run": "answer a prompt, streamed as it is made",
    "transcribe": "write down what is said in audio files",
    "embed": "make vectors of texts, as JSON lines or as an array",
    "rerank": "sort documents by how well they answer a query",
    "serve": "answer requests over HTTP, with OpenAI's API",
    "chat": "talk with a model in the terminal, here or on a server",
    "complete": "continue a text, here or on a server",
    "run-batch": "answer the requests of a file in OpenAI's batch format",
    "models": "list the architectures that are known, or say how a model would run",
    "plan": "say what a model takes and how fast it would be, before it is downloaded",
    "pull": "fetch a model ahead of time, and print where it is; list and remove those that are cached",
    "cache": "show how much the caches of models take, and make room in them",
    "quantize": "write a model in fewer bits, in a format that other engines load too",
    "bench": "measure latency and throughput, of this machine or of a server",
}

ALIASES = {"benchmark": "bench"}

FAILED, USER_ERROR = 1, 2  # the system refused something, as room on a disk; the user asked for what can't be
INTERRUPTED, BROKEN_PIPE = 130, 141  # as a shell reports SIGINT and SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in `argv`, without the program's name, and returns its exit code."""
    open_closed_streams()
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except OctavoError as error:
        return _complain(error, USER_ERROR)
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print()  # the shell's prompt gets a line of its own
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        return _complain(OctavoError(what_failed(error)), FAILED)
    finally:
        drop_output()


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        from octavo.version import __version__

        print(f"octavo {__version__}")
        return 0
    name = choose("octavo", COMMANDS, [ALIASES.get(word, word) for word in argv[:1]])
    return 0 if name is None else import_module(f"octavo.cli.{name.replace('-', '_')}").main(argv[1:])


def choose(prog: str, commands: Mapping[str, str], argv: Sequence[str]) -> str | None:
    """The command that `argv` begins with; None if help was asked for and given. Raises UsageError."""
    word = argv[0] if argv else "--help"
    if word in commands:
        return word
    if word not in ("--help", "-h", "help"):
        raise UsageError(unknown("command" if word[:1] != "-" else "flag", word, [*commands, "--help"], prog))
    print(f"usage: {prog} COMMAND …\n")
    for name, summary in commands.items():
        print(f"  {name:<12}{summary}")
    print(f"\n{prog} COMMAND --help has the flags of a command.")
    return None


def _complain(error: OctavoError, code: int) -> int:
    """Says on stderr what is wrong, and returns `code`."""
    message = " ".join(str(error).split())
    if not isinstance(error, UsageError):
        from octavo.cli.options import spell_flags

        message = spell_flags(message)
    with suppress(OSError):
        print(f"octavo: {shorten(message, 200)}", file=sys.stderr)
    return code
