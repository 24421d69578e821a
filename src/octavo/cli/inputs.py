"""What commands that generate read before anything is loaded: the prompt, and the sampling parameters."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from octavo.cli.options import SAMPLING_FLAGS, engine_options, options_of
from octavo.cli.parser import UsageError
from octavo.errors import PromptError


def read_prompt(text: str) -> str:
    """`text`, or stdin where that is -. Raises PromptError if there is nothing, or no text."""
    if text == "-":
        try:
            text = sys.stdin.buffer.read().decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise PromptError(f"stdin is not UTF-8: {error.reason} at byte {error.start}") from None
    if not text:
        raise PromptError("the prompt is empty; it must have at least one token")
    return text


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
