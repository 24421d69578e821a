"""What commands that generate read before anything is loaded: the prompt, and the sampling parameters."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from octavo.cli.options import MODEL_HELP, SAMPLING_FLAGS, engine_options, options_of, take_model
from octavo.cli.parser import Parser, UsageError
from octavo.errors import PromptError


def add_prompt(parser: Parser) -> None:
    """The arguments that `read_prompt` reads."""
    parser.add_argument("words", nargs="*", default=[], metavar="[MODEL] PROMPT", help=MODEL_HELP)


def read_prompt(args: argparse.Namespace, command: str) -> str:
    """The prompt, or stdin where that is -; makes a model before it the option `model`.

    Raises UsageError for other arguments, PromptError if there is nothing in the prompt, or no text.
    """
    if not 1 <= len(args.words) <= 2:
        got = len(args.words)
        raise UsageError(f"octavo {command} takes [MODEL] PROMPT, got {got} arguments; quote a prompt with spaces")
    take_model(args, args.words[0] if len(args.words) == 2 else None)
    text: str = args.words[-1]
    if text == "-":
        try:
            text = sys.stdin.buffer.read().decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise PromptError(f"stdin is not UTF-8: {error.reason} at byte {error.start}") from None
    if not text:
        raise PromptError("the prompt is empty; it must have at least one token")
    return text


def check_writable(flag: str, file: Path) -> None:
    """Raises UsageError, before anything is measured, for a file that can't be made."""
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise UsageError(f"{flag} {str(file)!r}: can't be written there")


def missing(file: Path) -> str | None:
    """Why there is nothing to read in a file that the user named; None if there may be."""
    if file.is_file():
        return None
    kind = "a directory" if file.is_dir() else "no regular file"
    return f"is {kind}" if file.exists() else "there is no such file"


def text_engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was typed of the engine's options. Raises UsageError, before anything is fetched, for a Whisper's name."""
    from octavo.weights.known import SHORT_NAMES

    model = getattr(args, "model", None) or ""
    repository, _, _ = SHORT_NAMES.get(model, model).partition("@")
    if repository in SHORT_NAMES.values() and not Path(model).expanduser().exists():
        raise UsageError(f"{model} listens to speech: octavo transcribe --model {model} FILE writes down what is said")
    return engine_options(args)


def checked_sampling(args: argparse.Namespace, *more: str) -> dict[str, Any]:
    """The sampling parameters that were typed, and those in `more`. Raises ParameterError."""
    from octavo.sampling_params import SamplingParams

    given = options_of(args, SAMPLING_FLAGS)
    given |= {name: getattr(args, name) for name in more if hasattr(args, name)}
    SamplingParams(**{"max_tokens": None, **given})
    return given
