"""`octavo cache`: how much the caches of models take, and `octavo cache prune`, which makes room in them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.cli.cached import age, as_json, models_table, remove_all, table
from octavo.cli.flag import memory
from octavo.cli.options import report_notes
from octavo.cli.parser import Parser, UsageError
from octavo.weights.progress import size_text

if TYPE_CHECKING:
    from octavo.weights.inventory import Cached

_UNFINISHED = 7 * 86400.0  # seconds after which prune takes an unfinished model for forgotten


def main(argv: Sequence[str]) -> int:
    if argv[:1] == ["prune"]:
        return _prune(argv[1:])
    args = _parser().parse(argv)
    report_notes()

    from octavo.weights.inventory import list_folders

    folders = list_folders(_folder(args.download_dir))
    if args.json:
        shown = [
            {"name": f.name, "path": str(f.path), "size": f.size, "models": f.models, "set_by": f.said_by}
            for f in folders
        ]
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return 0
    rows = [
        (f.name, str(f.path), size_text(f.size), f"{f.models} models" if f.models else "", f.said_by) for f in folders
    ]
    print(table([("what", "where", "size", "", "moved by"), *rows]))
    print("octavo pull --list has the models, octavo cache prune makes room.")
    return 0


def _parser() -> Parser:
    about = "Shows where models are kept and how much they take. octavo cache prune --help says how to make room."
    parser = Parser("octavo cache", "[prune] [flags]", about)
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    parser.add_argument("--download-dir", default=None, metavar="DIR", help="look into this folder instead")
    return parser


def _prune(argv: Sequence[str]) -> int:
    args = _prune_parser().parse(argv)
    report_notes()

    from octavo.weights.inventory import list_models, remove_leftovers

    cache = _folder(args.download_dir)
    doomed = _doomed(list_models(cache), args.older_than, args.to)
    if args.dry_run:
        print(json.dumps([as_json(one) for one in doomed], indent=2) if args.json else models_table(doomed))
        return 0
    code = remove_all(doomed, "prune", yes=args.yes) if doomed else 0
    freed = remove_leftovers(cache)
    if freed or not doomed:
        print(f"removed {size_text(freed)} that killed processes left")
    return code


def _doomed(models: Sequence[Cached], older_than: float | None, room: int | None) -> list[Cached]:
    """Unfinished models that are forgotten, those that were not used for so long, and more until the rest fits."""
    now = time.time()
    limit = _UNFINISHED if older_than is None else older_than
    doomed = [one for one in models if now - one.used >= limit and (older_than is not None or not one.complete)]
    if room is not None:
        rest = sorted((one for one in models if one not in doomed), key=lambda one: one.used)
        total = sum(one.size for one in rest)
        for one in rest:
            if total > room:
                doomed.append(one)
                total -= one.size
    return doomed


def _prune_parser() -> Parser:
    about = (
        "Removes unfinished models that nobody went on with for a week, what killed processes left, and what the flags "
        "ask for. Models that a process of Octavo uses stay. It asks before it removes models."
    )
    parser = Parser("octavo cache prune", "[flags]", about)
    parser.add_argument(
        "--older-than",
        type=age,
        default=None,
        metavar="AGE",
        help="models that were not used for so long: 12h, 30d, 2w",
    )
    parser.add_argument(
        "--to",
        type=memory,
        default=None,
        metavar="SIZE",
        help="the least recently used, until the rest takes this: 20GB",
    )
    parser.add_argument(
        "--dry-run", action="store_true", default=False, help="say what would be removed, and remove nothing"
    )
    parser.add_argument("--yes", action="store_true", default=False, help="don't ask")
    parser.add_argument("--json", action="store_true", default=False, help="with --dry-run: print JSON")
    parser.add_argument("--download-dir", default=None, metavar="DIR", help="look into this folder instead")
    return parser


def _folder(given: str | None) -> Path | None:
    if given is not None and not Path(given).is_dir():
        raise UsageError(f"--download-dir {given} is not a directory")
    return Path(given) if given is not None else None
