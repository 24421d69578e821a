"""`octavo run-batch -i IN -o OUT`: the requests of a file in OpenAI's batch format, many at a time.

Answers are appended as they are finished, in no order of their own. What OUT has is not done again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.cli.flag import positive
from octavo.cli.inputs import missing
from octavo.cli.options import MODEL_HELP, add_engine_flags, engine_options, report_notes, take_model
from octavo.cli.parser import Parser, UsageError
from octavo.cli.remote import add_server_flags, api_key, check_place

if TYPE_CHECKING:
    from octavo.cli.batch.local import LocalBatch
    from octavo.cli.batch.remote import RemoteBatch
    from octavo.server.batches.entries import EntryFile

DESCRIPTION = (
    "Answers the requests of a file, one JSON object a line: custom_id, method, url, body, as for OpenAI's batches. "
    "Answers are appended as they are finished; run again, it goes on where it stopped. Bad lines get entries with "
    "an error that names the line and the field."
)


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    take_model(args, args.given)
    check_place(args, keeps=("model", "served_model_name"))
    _check(args)
    report_notes()
    return _run(args)


def _parser() -> Parser:
    parser = Parser("octavo run-batch", "-i IN -o OUT [flags] [MODEL]", DESCRIPTION)
    parser.add_argument("given", nargs="?", default=None, metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("batch")
    source, target = "the file of requests, in JSON lines", "the file that answers are appended to"
    group.add_argument("-i", "--input-file", type=Path, required=True, metavar="IN", help=source)
    group.add_argument("-o", "--output-file", type=Path, required=True, metavar="OUT", help=target)
    names = "the names of the model in requests, instead of its own"
    group.add_argument("--served-model-name", nargs="+", default=[], metavar="NAME", help=names)
    many = "with --url, at most N requests at a time (32)"
    group.add_argument("--max-concurrency", type=positive, metavar="N", help=many)
    add_server_flags(parser)
    add_engine_flags(parser)
    return parser


def _check(args: argparse.Namespace) -> None:
    if reason := missing(args.input_file):
        raise UsageError(f"--input-file {args.input_file}: {reason}")
    if not os.access(args.input_file, os.R_OK):
        raise UsageError(f"--input-file {args.input_file}: can't be read")
    if args.output_file.exists() and args.output_file.samefile(args.input_file):
        raise UsageError("--input-file and --output-file are the same file")
    if args.url is None and hasattr(args, "max_concurrency"):
        raise UsageError("--max-concurrency is for --url; here --max-num-seqs says it")
    if args.url is not None and args.served_model_name:
        raise UsageError("--served-model-name is for a model in this process; with --url say --model NAME")


def _run(args: argparse.Namespace) -> int:
    import asyncio

    from octavo.server.batches.entries import EntryFile, UnwrittenError
    from octavo.server.batches.lines import read_lines

    with EntryFile(args.output_file, f"--output-file {args.output_file}") as output:
        if output.repaired:
            print("octavo: the last entry of an earlier run was not whole, and is repaired", file=sys.stderr)
        num_done = num_lines = 0
        for line in read_lines(args.input_file):
            num_lines += 1
            num_done += output.has(line)
        if num_done < num_lines:
            try:
                asyncio.run(_answer_all(args, output, num_done, num_lines))
            except UnwrittenError as error:
                raise OSError(str(error)) from None  # output that can't be written has an exit code of its own
    before = f", {num_done} had an answer before" if num_done else ""
    counts = f"{output.num_written} answered, {output.num_failed} of them with an error{before}"
    print(f"octavo: {counts}: {args.output_file}", file=sys.stderr)
    return 0


async def _answer_all(args: argparse.Namespace, output: EntryFile, num_done: int, num_lines: int) -> None:
    """Raises OctavoError where going on makes no sense; the file is whole in any case."""
    import asyncio

    from tqdm import tqdm

    from octavo.server.batches.entries import entry_of, entry_of_none
    from octavo.server.batches.lines import BadLine, read_lines

    answerer = await _open_answerer(args)
    lines = (line for line in read_lines(args.input_file) if not output.has(line))
    with tqdm(total=num_lines, initial=num_done, unit="req", disable=not sys.stderr.isatty()) as bar:

        async def work() -> None:
            for line in lines:  # shared by all workers: each takes the next
                if isinstance(line, BadLine):
                    output.append(entry_of_none(line))
                else:
                    output.append(entry_of(line, await answerer.answer(line)))
                bar.update()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(answerer.concurrency):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            answerer.close()


async def _open_answerer(args: argparse.Namespace) -> LocalBatch | RemoteBatch:
    """What answers: it says how many requests at a time it takes."""
    if args.url is None:
        from octavo.cli.batch.local import LocalBatch

        return LocalBatch(engine_options(args, ("served_model_name",)), tuple(args.served_model_name))
    from octavo.cli.batch.remote import RemoteBatch
    from octavo.client.api import ApiClient

    client = ApiClient(args.url, api_key(args))
    model = getattr(args, "model", None) or (await client.models())[0]["id"]
    return RemoteBatch(client, model, getattr(args, "max_concurrency", 32))
