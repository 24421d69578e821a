"""`octavo pull MODEL`: fetch a model ahead of time; and what is cached, which can be removed again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from octavo.cli.options import MODEL_FLAGS, MODEL_HELP, add_flags, report_notes, take_model
from octavo.cli.parser import Parser, UsageError


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    take_model(args, args.given)
    report_notes()
    reference = getattr(args, "model", None)
    revision, directory = getattr(args, "revision", None), getattr(args, "download_dir", None)
    if args.list or args.remove is not None:
        if reference is not None or revision is not None or (args.list and args.remove is not None):
            raise UsageError("--list and --remove stand alone, with no model to fetch")
        return _manage(args, None if directory is None else Path(directory))
    for flag in ("json", "yes"):
        if getattr(args, flag):
            raise UsageError(f"--{flag} goes with --list or --remove")

    from octavo.weights.known import DEFAULT_MODEL
    from octavo.weights.source import resolve

    print(resolve(reference or DEFAULT_MODEL, revision=revision, cache_dir=directory))
    return 0


def _manage(args: argparse.Namespace, cache: Path | None) -> int:
    from octavo.cli.cached import as_json, choose, models_table, remove_all
    from octavo.weights.inventory import list_models

    models = list_models(cache)
    if args.remove is not None:
        return remove_all(choose(models, args.remove), "--remove", yes=args.yes)
    print(
        json.dumps([as_json(one) for one in models], indent=2, ensure_ascii=False)
        if args.json
        else models_table(models)
    )
    return 0


def _parser() -> Parser:
    about = "Fetches a model and prints where it is. An earlier attempt is gone on with."
    parser = Parser("octavo pull", "[flags] [MODEL]", about)
    parser.add_argument("given", nargs="?", default=None, metavar="MODEL", help=MODEL_HELP)
    add_flags(parser, "model", [flag for flag in MODEL_FLAGS if flag.name in ("model", "revision", "download_dir")])
    group = parser.add_argument_group("what is cached")
    group.add_argument("--list", action="store_true", default=False, help="list the cached models, unfinished ones too")
    group.add_argument(
        "--remove", default=None, metavar="NAME", help="remove a cached model, by its name or a part of it"
    )
    group.add_argument("--yes", action="store_true", default=False, help="with --remove: don't ask")
    group.add_argument("--json", action="store_true", default=False, help="with --list: print JSON")
    return parser
