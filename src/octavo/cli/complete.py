"""`octavo complete [MODEL] PROMPT`: continues a text on stdout, with a model of this process or of a server."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from octavo.cli.inputs import add_prompt, checked_sampling, read_prompt
from octavo.cli.options import SAMPLING_FLAGS, add_engine_flags, add_flags, report_notes
from octavo.cli.parser import Parser
from octavo.cli.remote import add_server_flags, check_place
from octavo.cli.terminal import use_any_text, write
from octavo.errors import OctavoError

DESCRIPTION = (
    "Continues a text on stdout as the continuation is made, without a chat template and without the text itself. "
    "A PROMPT of - is read from stdin. With --url, MODEL is what the server calls it."
)


def main(argv: Sequence[str]) -> int:
    import asyncio

    args = _parser().parse(argv)
    check_place(args, keeps=("model", "seed"))
    sampling = checked_sampling(args)
    text = read_prompt(args, "complete")
    report_notes()
    asyncio.run(_complete(args, sampling, text))
    return 0


def _parser() -> Parser:
    parser = Parser("octavo complete", "[flags] [MODEL] PROMPT", DESCRIPTION)
    add_prompt(parser)
    add_server_flags(parser)
    add_flags(parser, "sampling", SAMPLING_FLAGS)
    add_engine_flags(parser)
    return parser


async def _complete(args: argparse.Namespace, sampling: dict[str, Any], text: str) -> None:
    from octavo.cli.sources import open_source

    use_any_text()
    source, last = await open_source(args, sampling), ""
    try:
        async for piece in source.answer(text):
            write(piece.text)
            last = piece.text or last
        write("" if last.endswith("\n") else "\n")
    except OctavoError:
        write("\n" if last else "")  # what went wrong has a line of its own
        raise
    finally:
        source.close()
