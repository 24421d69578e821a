"""Pictures of a KV cache: runs of owners, and what a cell of several blocks shows."""

import time

import pytest

from octavo.engine.clock import KEPT, StepClock, StepRecord
from octavo.engine.driver import EngineStats
from octavo.engine.view import EngineView
from octavo.server.blocks_picture import picture
from octavo.server.rates import rates_of, step_of

EMPTY = StepRecord(*[0] * 13)


def view_of(num_blocks, free, first=0):
    return EngineView(0.0, (), 0, 0, first, num_blocks, [first + block for block in free], 0, ())


def test_blocks_of_two_requests_are_shared_and_those_of_one_s_samples_are_its_own():
    tables = {1: [[10, 11, 12], [10, 11, 13]], 2: [[10, 14]]}
    per_cell, runs = picture(view_of(8, [6, 7], first=10), tables)
    assert per_cell == 1
    assert runs == [(1, "shared"), (3, 1), (1, 2), (1, "cached"), (2, "free")]


@pytest.mark.parametrize(
    ("blocks", "shown"),
    [({}, "free"), ({1: [[0]], 2: [[0]]}, "shared"), ({1: [[0], [1]], 2: [[0]]}, 1), ({3: [[3]]}, 3)],
)
def test_a_cell_of_several_blocks_shows_who_is_in_it(blocks, shown):
    owned = {block for tables in blocks.values() for table in tables for block in table}
    free = [block for block in range(10) if block not in owned]
    per_cell, runs = picture(view_of(10, free), blocks, most_cells=3)
    assert per_cell == 4
    assert runs[0][1] == shown
    assert sum(count for count, _ in runs) == 3


def test_rates_are_of_the_last_second_and_of_longer_steps_where_there_were_some():
    now = time.monotonic()
    old = EMPTY._replace(ended=now - 2, prompt_tokens=100, output_tokens=10, prefix_queries=50)
    new = EMPTY._replace(ended=now - 0.5, seconds=0.1, prompt_tokens=130, output_tokens=14, prefix_queries=60)
    stats = EngineStats(prefix_queries=100, prefix_hits=30)
    found = rates_of(stats, [old, new._replace(prefix_hits=5)], now)
    assert list(found.values()) == [30, 4, 0, 0.5]
    assert list(rates_of(stats, [old], now).values()) == [0, 0, 0, 0.3]
    assert list(rates_of(stats, [], now).values()) == [0, 0, 0, 0.3]
    long = rates_of(stats, [old, new._replace(ended=now, seconds=3.0)], now)
    assert long["prompt_tokens_per_s"] == pytest.approx(10)
    fast = [EMPTY._replace(ended=now - 0.5 + i / 1e6, output_tokens=5000 + i) for i in range(KEPT)]
    assert rates_of(stats, fast, now)["output_tokens_per_s"] == KEPT - 1


def test_a_step_s_phases_and_the_rest_are_all_of_its_time():
    clock = StepClock()
    for i in range(100):
        clock.start()
        clock.planned()
        clock.skip()
        clock.ran()
        clock.committed()
        clock.landed()
        clock.finish(3, 2, 3 * i, i, 0, 0, 0)
    told = step_of(EngineStats(steps={3: 100}), list(clock.records))
    assert told["count"] == 100
    assert told["last"] == {"seconds": clock.records[-1].seconds, "tokens": 3, "sequences": 2, "prefill_tokens": 3}
    last = list(clock.records)[-64:]
    assert sum(told["mean"].values()) == pytest.approx(sum(step.seconds for step in last) / 64)
