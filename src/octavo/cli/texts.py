"""What commands about many texts have in common: where texts come from, the flags of vectors, and what failed."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from octavo.cli.flag import Flag, positive
from octavo.cli.inputs import missing
from octavo.cli.options import options_of
from octavo.cli.parser import UsageError
from octavo.errors import PromptError

if TYPE_CHECKING:
    from octavo.pooling_params import PoolingParams

T = TypeVar("T")
DEFAULT_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"
AT_ONCE = 1024  # so many texts are given to the engine before the first results are written
BAD_TEXT = 2  # the exit code where a text could not be read
TRUNCATE = Flag(
    "truncate_prompt_tokens", int, "N", "cut texts to so many tokens; -1: to what the model can read; without: refuse"
)
VECTOR_FLAGS = (  # by the names of PoolingParams
    Flag("dimensions", positive, "N", "only so many of a vector's numbers, of models that were trained for that"),
    Flag("normalize", None, None, "make vectors as long as 1, or not; without: as the model says"),
    TRUNCATE,
)


def read_lines(file: str) -> list[str]:
    """The lines of a file, or of stdin where it is -, empty ones too. Raises UsageError or PromptError."""
    name = "stdin" if file == "-" else file
    if file != "-" and (reason := missing(Path(file))):
        raise UsageError(f"{file}: {reason}")
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise PromptError(f"{name} is empty; it must have a text on each line")
    return [line.removesuffix("\r") for line in lines]


def vector_params(args: argparse.Namespace) -> PoolingParams:
    """What was typed of VECTOR_FLAGS. Raises ParameterError."""
    from octavo.pooling_params import PoolingParams

    return PoolingParams("embed", **options_of(args, VECTOR_FLAGS))


def documents_of(lines: Sequence[str]) -> list[dict[str, Any]]:
    """A document of each line: a JSON object with a `text`, or else the text. Raises PromptError for other objects."""
    documents = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line) if line.startswith("{") else None
        except (ValueError, RecursionError):
            value = None  # a text that looks like JSON
        if value is not None and not isinstance(value.get("text"), str):
            raise PromptError(f"line {number}: a document's JSON object must have a string `text`")
        documents.append(value or {"text": line})
    return documents


def batches(texts: Sequence[T], unit: str) -> Iterator[tuple[int, Sequence[T]]]:
    """The texts in slices of AT_ONCE, each with the place of its first; a terminal gets a bar on stderr."""
    bar = None
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(total=len(texts), unit=unit, leave=False)
    for start in range(0, len(texts), AT_ONCE):
        yield start, texts[start : start + AT_ONCE]
        if bar is not None:
            bar.update(min(AT_ONCE, len(texts) - start))
    if bar is not None:
        bar.close()


def complain(what: str, place: int, error: Exception) -> None:
    """Says on stderr why one of several texts has no result."""
    print(f"octavo: {what} {place}: {' '.join(str(error).split())}", file=sys.stderr)


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def report(what: str, num_tokens: int, seconds: float, first: float | None) -> None:
    """One line on stderr about the speed; `first` is when the first result was there, in seconds from the command."""
    parts = [f"{what} of {counted(num_tokens, 'token')}", f"{num_tokens / seconds:.1f} tok/s"]
    if first is not None:
        parts.append(f"first result {first:.2f} s from the command")
    print(" · ".join(parts), file=sys.stderr)


def since_command() -> float | None:
    """Seconds since this process began; None where that is not known."""
    from octavo.cli.speed import process_start

    begin = process_start()
    return None if begin is None else time.monotonic() - begin
