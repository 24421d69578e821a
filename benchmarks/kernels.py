"""Times every kind of op on a model's tape: python benchmarks/kernels.py [MODEL] [--dtype float32].

Prints, for steps of 1 to 64 decoding sequences and for a prompt, the milliseconds of each op, and GB/s and GFLOP/s of
the whole step beside what the machine can do.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import Any

import numpy as np

from octavo import LLM
from octavo.engine.loading import LoadedModel
from octavo.engine.speed import cost, matmul_flops, memory_bandwidth
from octavo.executor.native import lowering

CASES = {  # name: (sequences, tokens in the cache, tokens computed)
    "decode 1": (1, 64, 1),
    "decode 4": (4, 64, 1),
    "decode 16": (16, 64, 1),
    "decode 64": (64, 64, 1),
    "decode 1 at 1024": (1, 1024, 1),
    "prompt of 1024": (1, 0, 1024),
}


def label(op: lowering.TapeOp) -> str:
    if isinstance(op, lowering.MatmulOp):
        names = " + ".join(weight.name.split(".")[-2] for weight in op.weight.weights)
        return f"matmul {names} ({op.epilogue})"
    return type(op).__name__.removesuffix("Op").lower()


def steps(model: LoadedModel, sequences: int, context: int, count: int) -> tuple[Any, ...]:
    """Arguments of a native step."""
    blocks = -(-(context + count) // model.plan.block_size)
    tables = np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, sequences * count).astype(np.int32)
    last = np.arange(1, sequences + 1, dtype=np.int32) * count - 1
    starts, counts = np.full(sequences, context, np.int32), np.full(sequences, count, np.int32)
    return tokens, starts, counts, tables, last, np.zeros((0, 2), np.int32)


def measure(model: LoadedModel, name: str, repeat: int) -> None:
    sequences, context, count = CASES[name]
    native: Any = model.executor.native  # type: ignore[attr-defined]
    arguments = steps(model, sequences, context, count)
    seconds = []
    for _ in range(repeat):
        begin = time.perf_counter()
        native.run(*arguments)
        seconds.append(time.perf_counter() - begin)
    before = native.profile()
    native.set_profiling(True)
    for _ in range(repeat):
        native.run(*arguments)
    native.set_profiling(False)
    best = min(seconds)
    spent = cost(model, [(count, context + count)] * sequences, sequences)
    bandwidth, flops = spent.read_bytes / best, spent.flops / best
    print(
        f"{name}: {1000 * best:.2f} ms, {sequences * count / best:.0f} tok/s, {bandwidth / 1e9:.1f} GB/s "
        f"({bandwidth / memory_bandwidth(512 << 20):.0%}), {flops / 1e9:.0f} GFLOP/s "
        f"({flops / matmul_flops(model.config.compute_dtype == 'float32'):.0%})"
    )
    times: dict[str, float] = defaultdict(float)
    tape = model.executor.tape  # type: ignore[attr-defined]
    for op, (_, start), (_, end) in zip(tape.ops, before, native.profile(), strict=True):
        times[label(op)] += (end - start) / repeat
    for what, value in times.items():
        print(f"    {what:56}{1000 * value:9.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeat", type=int, default=10)
    args = parser.parse_args()
    model = LLM(args.model, dtype=args.dtype, max_model_len=2048).model
    for name in CASES:
        measure(model, name, args.repeat)


if __name__ == "__main__":
    main()
