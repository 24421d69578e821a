"""`octavo models [MODEL]`: the architectures that are known, or whether and how one model would run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from octavo.cli.options import MODEL_HELP, add_engine_flags, engine_options, report_notes, spell_flags, take_model
from octavo.cli.parser import Parser
from octavo.errors import OctavoError

if TYPE_CHECKING:
    from octavo.support import Forecast

REFUSED = 2
HEAD = ("architecture", "kind", "also from", "models")
NOTE = (
    "All load from safetensors, quantized or not. What else transformers has may run by its own layers.\n"
    "`octavo models MODEL` says whether and how a model would run, `octavo plan MODEL` in which formats and how fast."
)


def main(argv: Sequence[str]) -> int:
    args = _parser().parse(argv)
    take_model(args, args.given)
    report_notes()
    options = engine_options(args)
    if "model" in options:
        return _tell(options, args.json)

    from octavo.plugins import load_plugins

    load_plugins()
    rows = list(_rows())
    print(json.dumps(rows, indent=2, ensure_ascii=False) if args.json else _table(rows))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "octavo models",
        "[flags] [MODEL]",
        "Lists the architectures that are known, by the names that config.json uses. With a MODEL, it says whether and "
        "how that would run with these flags, and in how much memory, from the headers of its files; exit code 2 means "
        "that it would not.",
    )
    parser.add_argument("given", nargs="?", default=None, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    add_engine_flags(parser)
    return parser


def _rows() -> Iterator[dict[str, Any]]:
    """One for each name."""
    from octavo.support import TEXT_PARTS, families

    for family in families():
        common = {"kind": family.kind, "formats": family.formats}
        about = {"models": family.models, "built": family.built, "declared_by": family.declared_by}
        for name in family.names:
            yield {"architecture": name, **common, "gguf": family.gguf, **about}
    for name in TEXT_PARTS:
        models = "Text of models that see or hear, where their text part is one of the others."
        yield {"architecture": name, "kind": "text part", "formats": ("safetensors",), "gguf": (), "models": models}


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """As wide as the terminal, if it is one."""
    cells = [HEAD, *((row["architecture"], row["kind"], _others(row), row["models"]) for row in rows)]
    widths = [max(len(row[i]) for row in cells) + 2 for i in range(3)]
    lines = ["".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)) for row in cells]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        lines = [line if len(line) <= room else line[: room - 1] + "…" for line in lines]
    return "\n".join([*map(str.rstrip, lines), "", f"{len(rows)} architectures. {NOTE}"])


def _others(row: dict[str, Any]) -> str:
    """The formats beside safetensors, GGUF with its names."""
    names = f"GGUF {', '.join(row['gguf'])}" if row["gguf"] else ""
    return names or ", ".join(name for name in row["formats"] if name not in ("safetensors", "GGUF"))


def _tell(options: dict[str, Any], as_json: bool) -> int:
    from octavo.support import forecast

    try:
        found = forecast(options)
    except OctavoError as error:
        if not as_json:
            raise
        reason = spell_flags(" ".join(str(error).split()))
        print(json.dumps({"model": options["model"], "runs": False, "reason": reason}, ensure_ascii=False))
        return REFUSED
    if as_json:
        print(json.dumps({**asdict(found), "runs": True}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([f"{found.model} runs.", *lines_about(found), f"  {'memory':<14}{found.summary}"]))
    return 0


def lines_about(found: Forecast) -> Iterator[str]:
    """What a model is, and how it would run."""
    total = sum(found.stored.values())
    stored = {name: 100 * size / total for name, size in found.stored.items() if size}
    types = ", ".join(name if part == 100 else f"{name} {part:.0f} %" for name, part in stored.items() if part > 1)
    length = f"{found.max_model_len:,} tokens"
    if found.max_model_len != found.trained_len:
        length += f"; the model was trained on {found.trained_len:,}"
    rows = {
        "architecture": f"{found.architecture} ({found.kind}) {found.does}; declared by {found.declared_by}",
        "weights": f"{found.format}, {total / 1e6:,.1f} MB: {types}; {_count(found.parameters)} parameters",
        "quantization": found.quantization if found.quantization != "gguf" else None,
        "runs on": f"{found.executor} executor, {found.device}, {found.dtype}",
        "context": length,
    }
    for name, text in rows.items():
        if text:
            yield f"  {name:<14}{text}"


def _count(number: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)
