"""What commands that generate read before anything is loaded: the prompt, and the sampling parameters."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from octavo.cli.options import SAMPLING_FLAGS, options_of
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


def checked_sampling(args: argparse.Namespace, *more: str) -> dict[str, Any]:
    """The sampling parameters that were typed, and those in `more`. Raises ParameterError."""
    from octavo.sampling_params import SamplingParams

    given = options_of(args, SAMPLING_FLAGS)
    given |= {name: getattr(args, name) for name in more if hasattr(args, name)}
    SamplingParams(**{"max_tokens": None, **given})
    return given
