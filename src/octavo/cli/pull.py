"""`octavo pull MODEL`: fetch a model ahead of time."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.cli.options import MODEL_FLAGS, MODEL_HELP, add_flags, report_notes, take_model
from octavo.cli.parser import Parser


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    take_model(args, args.given)
    report_notes()

    from octavo.weights.known import DEFAULT_MODEL
    from octavo.weights.source import resolve

    reference = getattr(args, "model", DEFAULT_MODEL)
    revision, directory = getattr(args, "revision", None), getattr(args, "download_dir", None)
    print(resolve(reference, revision=revision, cache_dir=directory))
    return 0


def _parser() -> Parser:
    parser = Parser("octavo pull", "[flags] [MODEL]", "Fetches a model and prints where it is.")
    parser.add_argument("given", nargs="?", default=None, metavar="MODEL", help=MODEL_HELP)
    add_flags(parser, "model", [flag for flag in MODEL_FLAGS if flag.name in ("model", "revision", "download_dir")])
    return parser
