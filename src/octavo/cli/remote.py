"""The flags of commands that talk to a server, where --url names one."""

from __future__ import annotations

import argparse
import os
import re

from octavo.cli.flag import as_flag
from octavo.cli.options import engine_options
from octavo.cli.parser import Parser, UsageError


def add_server_flags(parser: Parser, required: bool = False) -> None:
    group = parser.add_argument_group("server")
    about = "the address of an OpenAI-compatible server, as http://127.0.0.1:8000"
    if not required:
        about += "; without it the model runs in this process"
    group.add_argument("--url", "--base-url", dest="url", metavar="URL", default=None, help=about)
    group.add_argument("--api-key", metavar="KEY", default=None, help="the server's key; or set OCTAVO_API_KEY")


def api_key(args: argparse.Namespace) -> str | None:
    """The key that was given, or the environment's. Raises UsageError for one that no header can carry."""
    key: str | None = args.api_key or os.environ.get("OCTAVO_API_KEY") or None
    if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UsageError("--api-key: a key has printable ASCII characters only, and no spaces")
    return key


def check_place(args: argparse.Namespace, keeps: tuple[str, ...]) -> None:
    """Refuses an engine's flags, but for `keeps`, with --url, and a key without it. Raises UsageError."""
    if args.url is None:
        if args.api_key is not None:
            raise UsageError("--api-key is for a server: give its --url too")
        return
    for name in engine_options(args, without=keeps):
        raise UsageError(f"{as_flag(name)} is for a model in this process; with --url the server decides that")
