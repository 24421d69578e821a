"""What `octavo bench embed` runs: texts, the same for the same seed."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Any

from octavo.cli.bench.figures import Json


def workload(args: argparse.Namespace) -> Json:
    """What was asked for; null for what does not apply."""
    is_random = args.input is None
    return {
        "input": args.input,
        "num_texts": args.num_texts,
        "min_len": args.min_len if is_random else None,
        "max_len": args.max_len if is_random else None,
        "latency_len": args.latency_len if is_random else None,
        "num_iters": args.num_iters,
        "warmup": args.warmup,
        "seed": getattr(args, "seed", 0),
    }


def texts_of(args: argparse.Namespace, lines: list[str] | None, ids: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """The texts that are run at once, and those that are run alone, the ones of the warm-up first.

    Random ones are tokens of `ids`.
    """
    source, alone = random.Random(getattr(args, "seed", 0)), args.warmup + args.num_iters
    if lines is not None:
        return [lines[i % len(lines)] for i in range(args.num_texts)], [lines[i % len(lines)] for i in range(alone)]
    lengths = [source.randint(args.min_len, args.max_len) for _ in range(args.num_texts)]
    many = [source.choices(ids, k=length) for length in lengths]
    return many, [source.choices(ids, k=args.latency_len) for _ in range(alone)]
