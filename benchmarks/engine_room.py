"""Times what it costs to look at an engine: its thread's part, the picture of its blocks, and the clock of its steps.

    python benchmarks/engine_room.py [--blocks 100000] [--sequences 16]

The engine's thread copies block numbers between two steps; all else is done elsewhere. The limit for that is 1 ms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import timeit
from types import SimpleNamespace
from typing import Any

from octavo.engine.clock import KEPT, StepClock
from octavo.engine.view import take_view
from octavo.graph.cache import BlockGroup
from octavo.request import Prompt, Request, Status
from octavo.sampling_params import SamplingParams
from octavo.scheduler.blocks import BlockManager
from octavo.scheduler.scheduler import Scheduler
from octavo.server.blocks_picture import picture

BLOCK_SIZE = 16
LIMIT = 1e-3  # seconds of the engine's thread


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=100_000, metavar="N")
    parser.add_argument("--sequences", type=int, default=16, metavar="N")
    args = parser.parse_args()
    is_quick = True
    for share in (0.0, 0.5, 1.0):
        engine = busy_engine(args.blocks, args.sequences, share)
        looking = median(lambda engine=engine: take_view(engine))  # type: ignore[misc]
        view = take_view(engine)
        owners = {n: request.tables for n, request in enumerate(view.requests, 1)}
        drawing = median(lambda view=view, owners=owners: picture(view, owners))  # type: ignore[misc]
        print(f"{share:4.0%} of {args.blocks} blocks owned: the engine's thread {looking * 1e6:7.1f} µs, ", end="")
        print(f"the picture elsewhere {drawing * 1e3:6.2f} ms")
        is_quick &= looking <= LIMIT
    clock = StepClock()
    print(f"the clock of a step: {median(lambda: time_step(clock)) * 1e6:.2f} µs")
    return 0 if is_quick else 1


def median(work: Any) -> float:
    """Seconds of a call."""
    return statistics.median(timeit.repeat(work, number=5, repeat=9)) / 5


def busy_engine(num_blocks: int, num_sequences: int, share: float) -> Any:
    """What a view reads of an engine whose sequences own so much of its blocks."""
    blocks = BlockManager([BlockGroup(0, num_blocks)], BLOCK_SIZE)
    limits = {"max_num_batched_tokens": num_sequences, "max_logits_rows": num_sequences}
    scheduler = Scheduler(blocks, max_num_seqs=num_sequences, max_model_len=num_blocks * BLOCK_SIZE, **limits)
    num_tokens = max(1, int(num_blocks * share) // num_sequences) * BLOCK_SIZE
    for i in range(num_sequences):
        request = Request(str(i), Prompt(None, [1] * num_tokens), SamplingParams())
        blocks.reserve(request.sequences[0], num_tokens)
        request.status = Status.RUNNING
        scheduler._running.append(request)
    clock = StepClock()
    for _ in range(KEPT):
        time_step(clock)
    jobs = {str(i): SimpleNamespace(max_tokens=1) for i in range(num_sequences)}
    return SimpleNamespace(scheduler=scheduler, jobs=jobs, clock=clock)


def time_step(clock: StepClock) -> None:
    """The calls of a step."""
    clock.start()
    clock.planned()
    clock.skip()
    clock.ran()
    clock.skip()
    clock.committed()
    clock.skip()
    clock.landed()
    clock.finish(1, 1, 0, 0, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
