"""What steps of an engine say: how much it does in a second, and what a step's time goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo.engine.clock import KEPT, StepRecord
from octavo.engine.driver import EngineStats

WINDOW = 1.0  # seconds that rates are of
MEAN_OF = 64  # steps
PHASES = ("plan", "run", "commit", "land", "other")


def rates_of(stats: EngineStats, records: Sequence[StepRecord], now: float) -> dict[str, float]:
    """What the steps of the last second did, in a second. A step that took longer counts with its own time."""
    begin, last, before = now, None, None
    for record in reversed(records):
        if record.ended < now - WINDOW:
            before = record
            break
        last = last or record
        begin = record.ended - record.seconds
    if before is None and len(records) == KEPT:  # what was before is forgotten
        before, begin = records[0], records[0].ended
    shares = stats.prefix_hits / stats.prefix_queries if stats.prefix_queries else 0.0
    if last is None:
        prompt = output = requests = 0
    else:
        prompt, output, requests, queries, hits = (
            getattr(last, name) - (0 if before is None else getattr(before, name))
            for name in ("prompt_tokens", "output_tokens", "finished", "prefix_queries", "prefix_hits")
        )
        shares = hits / queries if queries else shares
    seconds = max(WINDOW, now - begin)
    return {
        "prompt_tokens_per_s": prompt / seconds,
        "output_tokens_per_s": output / seconds,
        "requests_per_s": requests / seconds,
        "prefix_hit_share": shares,
    }


def totals_of(stats: EngineStats) -> dict[str, int]:
    return {
        "prompt_tokens": stats.prompt_tokens,
        "output_tokens": stats.output_tokens,
        "requests": stats.finished,
        "prefix_queries": stats.prefix_queries,
        "prefix_hits": stats.prefix_hits,
    }


def step_of(stats: EngineStats, records: Sequence[StepRecord]) -> dict[str, Any]:
    """The JSON of a StepStats."""
    last, latest = None, records[-MEAN_OF:]
    if records:
        step, before = records[-1], records[-2].prompt_tokens if len(records) > 1 else 0
        last = {
            "seconds": step.seconds,
            "tokens": step.tokens,
            "sequences": step.sequences,
            "prefill_tokens": step.prompt_tokens - before,
        }
    count = max(1, len(latest))
    mean = {phase: sum(getattr(step, phase) for step in latest) / count for phase in PHASES}
    return {"count": sum(stats.steps.values()), "last": last, "mean": mean}
