"""`octavo bench latency|throughput|embed|serve`: how fast the engine is here, and how fast a server answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module

from octavo.cli.flag import positive
from octavo.cli.main import choose

KINDS = {
    "latency": "one batch at a time: time to the first token, between tokens, and in all",
    "throughput": "many requests at once: tokens and requests per second",
    "embed": "vectors of texts, here or on a server: texts and tokens per second, and the latency of one",
    "serve": "load on a server: latencies, throughput and goodput of any OpenAI-compatible one",
}


def add_number(
    group: argparse._ArgumentGroup, default: int, help: str, *names: str, convert: Callable[[str], int] = positive
) -> None:
    """Adds a flag for a number, whose help tells the default."""
    group.add_argument(*names, type=convert, default=default, metavar="N", help=f"{help} ({default})")


def main(argv: Sequence[str]) -> int:
    kind = choose("octavo bench", KINDS, argv)
    if kind is None:
        return 0
    module = kind if kind in ("embed", "serve") else "offline"
    code: int = import_module(f"octavo.cli.bench.{module}").main(argv)
    return code
