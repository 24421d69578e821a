"""`octavo pull`: fetch a model, print where it lies."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.cli.main import Parser
from octavo.cli.options import MODEL_HELP


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="octavo pull", description="Fetches a model ahead of time and prints where it lies.")
    parser.add_argument("model", nargs="?", help=MODEL_HELP)
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    parser.add_argument("--download-dir", metavar="DIR", help="where fetched models are kept")
    args = parser.parse_args(argv)
    from octavo.weights.source import resolve

    print(resolve(args.model, revision=args.revision, cache_dir=args.download_dir))
    return 0
