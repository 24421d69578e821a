"""`octavo embed [MODEL] TEXT…`: vectors of texts, as JSON lines or as an array of NumPy."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.cli.inputs import check_writable, text_engine_options
from octavo.cli.options import MODEL_HELP, add_engine_flags, add_flags, report_notes, take_model
from octavo.cli.parser import Parser, UsageError
from octavo.cli.texts import (
    BAD_TEXT,
    DEFAULT_EMBEDDER,
    VECTOR_FLAGS,
    batches,
    complain,
    counted,
    read_lines,
    report,
    since_command,
    vector_params,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.request import EmbeddingRequestOutput

DESCRIPTION = (
    "Makes a vector of each TEXT, and prints it as a line of JSON: index, text, tokens, embedding. Of several "
    "arguments the first is the model, unless --model names it; a single one is a text for "
    f"{DEFAULT_EMBEDDER}. A TEXT of - stands for stdin, a text on each line. A text that can't be embedded gets an "
    "error in its place, or a row that is not a number; the others go on."
)
KINDS = (".npy", ".jsonl")
Take = Callable[[str, "EmbeddingRequestOutput"], None]


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    texts = _read_arguments(args)
    params, options = vector_params(args), text_engine_options(args)
    report_notes()

    from octavo.llm import LLM

    llm = LLM(**{"model": DEFAULT_EMBEDDER, "task": "embed", **options})
    begin, first, num_tokens, num_bad = time.monotonic(), None, 0, 0
    with _writer(args.output) as take:
        for start, batch in batches(texts, "text"):
            outputs = llm.embed(batch, pooling_params=params, prompt_name=args.prompt_name, use_tqdm=False)
            first = first or since_command()
            for place, (text, output) in enumerate(zip(batch, outputs, strict=True), start):
                take(text, output)
                num_tokens += len(output.prompt_token_ids)
                if output.error is not None:
                    complain("text", place, output.error)
                    num_bad += 1
    report(counted(len(texts), "text"), num_tokens, time.monotonic() - begin, first)
    return BAD_TEXT if num_bad else 0


def _parser() -> Parser:
    parser = Parser("octavo embed", "[flags] [MODEL] TEXT…", DESCRIPTION)
    parser.add_argument("words", nargs="*", default=[], metavar="[MODEL] TEXT", help=MODEL_HELP)
    group = add_flags(parser, "vectors", VECTOR_FLAGS)
    named = "which of the model's prompts is put before the texts, as query"
    group.add_argument("--prompt-name", metavar="NAME", default=None, help=named)
    source = "a file with a text on each line, in place of TEXT; - is stdin"
    group.add_argument("--input", metavar="FILE", default=None, help=source)
    target = "a file for the vectors: .npy, float32 [texts, dimensions], or .jsonl; without: JSON lines on stdout"
    group.add_argument("-o", "--output", type=Path, metavar="FILE", default=None, help=target)
    add_engine_flags(parser)
    return parser


def _read_arguments(args: argparse.Namespace) -> list[str]:
    """The texts; makes a model before them the option `model`. Raises UsageError or PromptError."""
    if args.output is not None:
        if args.output.suffix not in KINDS:
            raise UsageError(f"--output {args.output}: must end in {' or '.join(KINDS)}")
        check_writable("--output", args.output)
    words = list(args.words)
    if args.input is not None:
        if len(words) > 1:
            raise UsageError(f"--input {args.input} has the texts; besides, octavo embed takes only a MODEL")
        take_model(args, words[0] if words else None)
        return read_lines(args.input)
    if not hasattr(args, "model") and len(words) > 1:
        take_model(args, words.pop(0))
    if not words:
        raise UsageError("octavo embed takes [MODEL] TEXT…, - for stdin, or --input FILE")
    if words.count("-") > 1:
        raise UsageError("- is given twice, but there is one stdin")
    return [text for word in words for text in (read_lines("-") if word == "-" else [word])]


@contextmanager
def _writer(file: Path | None) -> Iterator[Take]:
    """What takes a text with its vector; an array is written when all are there."""
    if file is None or file.suffix == ".jsonl":
        with nullcontext(sys.stdout) if file is None else file.open("w", encoding="utf-8") as lines:
            count = iter(range(sys.maxsize))

            def write(text: str, output: EmbeddingRequestOutput) -> None:
                line: dict[str, Any] = {"index": next(count), "text": text, "tokens": len(output.prompt_token_ids)}
                if output.error is None:
                    line["embedding"] = output.outputs.embedding
                else:
                    line["error"] = str(output.error)
                print(json.dumps(line, ensure_ascii=False), file=lines)

            yield write
        return
    import numpy as np

    rows: list[Any] = []
    yield lambda text, output: rows.append(np.array(output.outputs.embedding, np.float32))
    width = max(map(len, rows))
    np.save(file, [row if len(row) else np.full(width, np.nan, np.float32) for row in rows])
