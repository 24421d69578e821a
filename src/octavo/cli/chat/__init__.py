"""`octavo chat [MODEL]`: a conversation in the terminal, with a model of this process or of a server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from octavo.cli.inputs import checked_sampling
from octavo.cli.options import MODEL_HELP, SAMPLING_FLAGS, add_engine_flags, add_flags, report_notes, take_model
from octavo.cli.parser import Parser, UsageError
from octavo.cli.remote import add_server_flags, check_place

DESCRIPTION = (
    "Talks with a model. Ctrl-C stops an answer, Ctrl-D leaves, /help tells the commands. Where stdin or stdout is "
    "not a terminal, each line of stdin is a question and answers are plain text. With --url, MODEL is what the "
    "server calls it."
)


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    take_model(args, args.given)
    check_place(args, keeps=("model", "seed"))
    sampling = checked_sampling(args)
    report_notes()
    return _run(args, sampling)


def _parser() -> Parser:
    parser = Parser("octavo chat", "[flags] [MODEL]", DESCRIPTION)
    parser.add_argument("given", nargs="?", default=None, metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("chat")
    group.add_argument("--system", metavar="TEXT", default=None, help="the system message")
    markdown = "render answers as Markdown (on terminals)"
    group.add_argument("--markdown", action=argparse.BooleanOptionalAction, default=True, help=markdown)
    add_server_flags(parser)
    add_flags(parser, "sampling", SAMPLING_FLAGS)
    add_engine_flags(parser)
    return parser


def _run(args: argparse.Namespace, sampling: dict[str, object]) -> int:
    import asyncio

    from octavo.cli.chat.screen import MarkdownScreen, PlainScreen, Screen
    from octavo.cli.chat.session import Session
    from octavo.cli.sources import LocalSource, open_source
    from octavo.cli.terminal import use_any_text

    use_any_text()
    with asyncio.Runner() as runner:
        source = runner.run(open_source(args, sampling))
        try:
            if isinstance(source, LocalSource) and source.llm.model.chat_template is None:
                advice = "octavo complete continues text; --chat-template FILE gives it one"
                raise UsageError(f"{source.name} has no chat template; {advice}")
            on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
            screen: Screen = MarkdownScreen() if args.markdown and sys.stdout.isatty() else PlainScreen()
            return Session(source, runner, screen, args.system, on_terminal).run()
        finally:
            source.close()
