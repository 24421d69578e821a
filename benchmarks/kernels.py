"""Times the native ops of a model's steps, op by op, beside the machine's limits.

    python benchmarks/kernels.py [MODEL] [--rows 1 4 16 64 1024] [--output-json FILE]

A step of up to 64 rows decodes: so many sequences with `--context` tokens each. A longer one is one prompt.
Times include waiting for the slowest thread: on a machine that does other work, they say little.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

from octavo import LLM, SamplingParams
from octavo.cli.speed import describe, header, measure_limits, shares, show_rates
from octavo.engine.steps import make_step
from octavo.errors import OctavoError
from octavo.executor.native.tape import Op
from octavo.graph.node import StepShape
from octavo.request import BlockTable, Chunk, Prompt, Request, Sequence, StepPlan

MOST_DECODING = 64
COLUMNS = "{op:<10} {shape:<16} {rows:>5} {calls:>5} {microseconds:>10.1f} µs {rates}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 1024], metavar="N")
    parser.add_argument("--context", type=int, default=256, metavar="N", help="tokens of a decoding sequence")
    parser.add_argument("--repeat", type=int, default=10, metavar="N", help="steps that are measured")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16 or float32")
    parser.add_argument("--output-json", type=Path, metavar="FILE")
    args = parser.parse_args()
    longest = max(args.context, *args.rows)
    sizes = {"max_num_seqs": MOST_DECODING, "max_num_batched_tokens": longest, "max_model_len": longest + 1}
    try:
        llm = LLM(args.model, dtype=args.dtype, executor="native", enable_prefix_caching=False, **sizes)
    except OctavoError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    limits = measure_limits(llm.model.config)
    results = [row for rows in args.rows for row in measure(llm, rows, args.context, args.repeat, limits)]
    workload = {"rows": args.rows, "context": args.context, "repeat": args.repeat}
    document = describe("kernels", llm, limits, workload, results)
    print(header(document))
    for row in results:
        print(COLUMNS.format(**row, microseconds=row["seconds"] * 1e6, rates=show_rates(row)))
    if args.output_json:
        args.output_json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(llm: LLM, rows: int, context: int, repeat: int, limits: dict) -> list[dict]:
    """The ops of a step of `rows` tokens that multiply, those of the same shape together."""
    executor, dtype = llm.model.executor, llm.model.config.dtype
    plan = plan_of(rows, context, executor.sizes.block_size)
    step = make_step(plan, plan.logit_rows()[0])
    shape = StepShape([(chunk.count, chunk.start + chunk.count) for chunk in plan.chunks], len(plan.chunks))
    executor.native.set_profiling(True)
    executor.run(step)
    before = executor.native.op_seconds()
    for _ in range(repeat):
        executor.run(step)
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    costs: dict[tuple[str, str], tuple[float, int]] = {}
    for op, seconds, start in zip(executor.tape.ops, executor.native.op_seconds(), before, strict=True):
        if op.name in ("matmul", "attend"):
            key = op.name, shape_of(op)
            spent[key].append((seconds - start) / repeat)
            costs[key] = op.weight_bytes(dtype, shape.tokens) + op.cache_bytes(shape, dtype), op.flops(shape)
    found = []
    for key, times in spent.items():
        seconds, (read, flops) = sum(times) / len(times), costs[key]
        row = {"op": key[0], "shape": key[1], "rows": rows, "calls": len(times), "seconds": seconds}
        found.append(row | shares(read / seconds, flops / seconds, limits))
    return found


def plan_of(rows: int, context: int, block_size: int) -> StepPlan:
    """One token each of `rows` sequences, or the `rows` tokens of one prompt."""
    number, length, start = (rows, context, context - 1) if rows <= MOST_DECODING else (1, rows, 0)
    blocks = math.ceil(length / block_size)
    chunks = []
    for i in range(number):
        table = BlockTable(list(range(i * blocks, (i + 1) * blocks)))
        sequence = Sequence(0, [1] * length, length, [table])
        request = Request(str(i), Prompt(None, sequence.tokens), SamplingParams(), sequences=[sequence])
        chunks.append(Chunk(request, sequence, start, length - start))
    return StepPlan(chunks)


def shape_of(op: Op) -> str:
    if op.name == "matmul":
        matrix = op.matrices["weight"]
        return f"{sum(weight.shape[0] for weight in matrix.weights)}x{matrix.columns}"
    (node,) = op.nodes
    return f"{node.heads}/{node.kv_heads} x {node.head_dim}"


if __name__ == "__main__":
    sys.exit(main())
