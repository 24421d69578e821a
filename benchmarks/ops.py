"""Times single ops, each in a graph of nothing else, beside the machine's limits.

    python benchmarks/ops.py [OP…] [--rows 1 16 512] [--context 1024] [--dtype bfloat16]

A step of up to 64 rows decodes: so many sequences with `--context` tokens each. A longer one is one prompt. KB are what
an op reads and writes: weights, keys and values, states, its inputs and its output. The limit is the time that moving
them takes at the bandwidth of memory, or the arithmetic at the rate of matmuls, whichever is longer. What is small
stays in caches, and may be faster than that. Times include waiting for the slowest thread.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from kernels import MOST_DECODING, plan_of

from octavo import _native
from octavo.engine.steps import make_step
from octavo.executor.base import Sizes
from octavo.executor.native.executor import NativeExecutor
from octavo.executor.native.tape import Op
from octavo.graph.builder import Graph
from octavo.graph.cache import by_window, state_bytes
from octavo.graph.node import Node, StepShape, Weight
from octavo.plan.limits import measured_bandwidth
from octavo.weights.tensor import StoredTensor

VOCABULARY, BLOCK = 256, 16
HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 1024, 32, 8, 128  # those of attention: Llama's of 8B
EXPERTS, TOP_K, INNER = 32, 4, 512
SIZES = {"rows": ">6", "microseconds": ">11.1f", "kilobytes": ">10.1f", "gigabytes": ">8.1f", "gigaflops": ">10.1f"}
Json = dict[str, Any]


class Inputs:
    """A graph, and values in it that are there before the op: rows of tables, by the tokens' ids."""

    def __init__(self) -> None:
        self.graph, self.numbers = Graph(), count()

    def __call__(self, columns: int) -> Node:
        return self.graph.embed(f"input{next(self.numbers)}", VOCABULARY, columns)


def attention(given: Inputs, **how: Any) -> Node:
    q, kv = given(HEADS * HEAD_DIM), KV_HEADS * HEAD_DIM
    scale = HEAD_DIM**-0.5
    return given.graph.attention(q, given(kv), given(kv), layer=0, head_dim=HEAD_DIM, scale=scale, **how)


def experts(given: Inputs) -> Node:
    routes = given.graph.route(given(EXPERTS), TOP_K)
    shapes = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
    stacks = {part: [Weight(f"{part}.{e}", shape) for e in range(EXPERTS)] for part, shape in shapes.items()}
    return given.graph.experts(given(HIDDEN), routes, **stacks, top_k=TOP_K)


def delta(given: Inputs) -> Node:
    wide, heads = given(16 * HEAD_DIM), 16
    parts = wide, given(wide.columns), given(wide.columns), given(heads), given(heads)
    return given.graph.delta(*parts, "decay", "dt_bias", key_dim=HEAD_DIM, layer=0)


CASES: dict[str, Callable[[Inputs], Node]] = {
    "route": lambda given: given.graph.route(given(EXPERTS), TOP_K),
    "route, groups": lambda given: given.graph.route(
        given(256), 8, score="sigmoid", choice_bias="bias", groups=8, groups_used=4, group_best=2
    ),
    "experts": experts,
    "delta": delta,
    "causal_conv": lambda given: given.graph.causal_conv(given(6 * HIDDEN), "conv", 4, 0, activation="silu"),
    "attention": attention,
    "attention, window": partial(attention, window=256),
    "attention, chunks": partial(attention, chunk=256),
    "attention, soft cap": partial(attention, softcap=50.0),
    "attention, sinks": partial(attention, sinks="sinks"),
    "attention, slopes": partial(attention, slopes=tuple(2.0 ** -(8 * (i + 1) / HEADS) for i in range(HEADS))),
    "position_scale": lambda given: given.graph.position_scale(given(HEADS * HEAD_DIM), 0.1, 64),
    "join": lambda given: given.graph.join(given(64), given(HEADS * HEAD_DIM), 64, HEAD_DIM),
    "columns": lambda given: given.graph.columns(given(HEADS * HEAD_DIM), HEAD_DIM, HEADS * HEAD_DIM // 2),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", default=list(CASES), metavar="OP", help=f"of {'; '.join(CASES)}")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 512], metavar="N")
    parser.add_argument("--context", type=int, default=1024, metavar="N", help="tokens of a decoding sequence")
    parser.add_argument("--repeat", type=int, default=20, metavar="N", help="steps that are measured")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    args = parser.parse_args()
    if unknown := [name for name in args.ops if name not in CASES]:
        parser.error(f"there is no {unknown[0]!r}; there are {'; '.join(CASES)}")
    limits = {"bytes_per_second": measured_bandwidth(), "flops_per_second": _native.matmul_flops(args.dtype)}
    print(f"{'op':<20}{'rows':>6}{'µs':>11}{'KB':>10}{'GB/s':>8}{'GFLOP/s':>10}{'of limit':>10}")
    for name in args.ops:
        for row in measure(name, args.rows, args.context, args.repeat, args.dtype, limits):
            figures = "".join(format(row[size], how) for size, how in SIZES.items())
            print(f"{name:<20}{figures}{'' if row['share'] is None else format(row['share'], '>10.0%')}", flush=True)
    return 0


def measure(name: str, sizes: list[int], context: int, repeat: int, dtype: str, limits: Json) -> list[Json]:
    """The figures of one op in steps of each of the sizes."""
    executor, node = prepared(name, max(sizes), context, dtype)
    ops = [(i, op) for i, op in enumerate(executor.tape.ops) if node in op.nodes]
    found, rng = [], np.random.default_rng(1)
    for rows in sizes:
        executor.reset()
        plan = plan_of(rows, context, BLOCK)
        for chunk in plan.chunks:  # tokens that differ ask different experts
            chunk.sequence.tokens[:] = rng.integers(VOCABULARY, size=len(chunk.sequence.tokens)).tolist()
        step = make_step(plan, plan.logit_rows()[0])
        shape = StepShape([(chunk.count, chunk.start + chunk.count) for chunk in plan.chunks], len(plan.chunks))
        executor.run(step)
        before = np.array(executor.native.op_seconds())
        for _ in range(repeat):
            executor.run(step)
        spent = (np.array(executor.native.op_seconds()) - before) / repeat
        seconds = sum(float(spent[i]) for i, _ in ops)
        moved, flops = sum(moved_bytes(op, shape, dtype) for _, op in ops), node.flops(shape)
        bandwidth = limits["bytes_per_second"]
        least = max(moved / (bandwidth or math.inf), flops / limits["flops_per_second"])
        row = {"rows": rows, "microseconds": seconds * 1e6, "kilobytes": moved / 1e3}
        row |= {"gigabytes": moved / seconds / 1e9, "gigaflops": flops / seconds / 1e9}
        found.append(row | {"share": None if bandwidth is None else least / seconds})
    return found


def prepared(name: str, most: int, context: int, dtype: str) -> tuple[NativeExecutor, Node]:
    """An executor of the op alone, with random weights, for steps of up to `most` rows."""
    given = Inputs()
    node = CASES[name](given)
    graph = given.graph
    graph.logits(node, "head", VOCABULARY)
    sequences, longest = min(most, MOST_DECODING), max(context, most)
    sizes = Sizes(
        vocab_size=VOCABULARY,
        num_blocks=max(sequences * math.ceil(context / BLOCK), math.ceil(longest / BLOCK)),
        block_size=BLOCK,
        max_num_batched_tokens=longest,
        max_num_seqs=sequences,
        max_logit_rows=sequences,
        max_model_len=longest + 1,
        windows=tuple(by_window(graph.layers.values())),
    )
    rng = np.random.default_rng(0)
    tensors = {weight.name: random_tensor(rng, weight) for weight in graph.weights}
    executor = NativeExecutor(graph, tensors, sizes, dtype=dtype)
    executor.native.set_profiling(True)
    return executor, node


def random_tensor(rng: np.random.Generator, weight: Weight) -> StoredTensor:
    values = rng.standard_normal(weight.shape, np.float32) * np.float32(weight.shape[-1] ** -0.5)
    return StoredTensor(weight.name, "F32", weight.shape, values.view(np.uint8).reshape(-1))


def moved_bytes(op: Op, shape: StepShape, dtype: str) -> float:
    """What an op reads and writes in a step."""
    element = {"float32": 4, "bfloat16": 2}[dtype]
    of_row = sum(one.columns * (4 if one.floats else element) for one in (*op.inputs, *op.outputs))
    states = sum(state_bytes([node.cached[1]]) for node in op.nodes if node.cached is not None)
    read = op.weight_bytes(dtype, shape.tokens) + op.cache_bytes(shape, dtype)
    return read + shape.tokens * of_row + 2 * states * len(shape.contexts)


if __name__ == "__main__":
    sys.exit(main())
