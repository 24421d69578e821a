"""`octavo bench latency|throughput|serve`: how fast the engine is here, and how fast a server answers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from octavo.cli.main import choose

KINDS = {
    "latency": "one batch at a time: time to the first token, between tokens, and in all",
    "throughput": "many requests at once: tokens and requests per second",
    "serve": "load on a server: latencies, throughput and goodput of any OpenAI-compatible one",
}


def main(argv: Sequence[str]) -> int:
    kind = choose("octavo bench", KINDS, argv)
    if kind is None:
        return 0
    module = "serve" if kind == "serve" else "offline"
    code: int = import_module(f"octavo.cli.bench.{module}").main(argv)
    return code
