"""Random histories of requests in tiny caches: preemption, copy on write and eviction all the time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from octavo.errors import RequestError
from octavo.graph.cache import BlockGroup
from octavo.request import Status
from octavo.scheduler.blocks import BlockManager
from octavo.scheduler.scheduler import Scheduler

from .model import Content, Engine, check_ownership, make_request


class Histories(RuleBasedStateMachine):
    engine: Engine

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        draw = data.draw
        max_num_seqs = draw(st.integers(1, 5))
        window = draw(st.none() | st.integers(1, 9))
        snapshots = draw(st.none() | st.integers(0, 6))
        max_num_batched_tokens = max_num_seqs + draw(st.integers(0, 12))
        count, block_size = draw(st.integers(4, 16)), draw(st.integers(1, 4))
        groups = [BlockGroup(0, count, window)]
        if window != 1 and draw(st.booleans()):
            narrower = draw(st.integers(1, 8 if window is None else window - 1))
            held = max_num_seqs * (narrower + block_size) + max_num_batched_tokens
            groups.append(BlockGroup(count, min(count, -(-held // block_size)), narrower))
        blocks = BlockManager(groups, block_size, draw(st.booleans()), num_snapshots=snapshots)
        scheduler = Scheduler(
            blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_logits_rows=max_num_seqs + draw(st.integers(0, 4)),
            max_model_len=draw(st.integers(8, 24)),
            policy=draw(st.sampled_from(["fcfs", "priority"])),
            enable_chunked_prefill=draw(st.booleans()),
        )
        self.engine = Engine(scheduler, seed=draw(st.integers(0, 2**16)))
        self.num_added = 0
        self.contents: dict[bytes, list[Content | None]] = {}

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=14),
        max_tokens=st.none() | st.integers(1, 12),
        options=st.fixed_dictionaries(
            {
                "max_sequences": st.sampled_from([1, 1, 2, 3]),
                "lockstep": st.booleans(),
                "needs_all_rows": st.sampled_from([False, False, True]),
                "priority": st.integers(0, 2),
                "salt": st.sampled_from(["", "", "tenant"]),
            }
        ),
    )
    def add(self, prompt: list[int], max_tokens: int | None, options: dict[str, Any]) -> None:
        request = make_request(str(self.num_added), prompt, max_tokens, **options)
        self.num_added += 1
        try:
            self.engine.add(request)
        except RequestError:
            assert self.engine.scheduler.abort(request.id) is None

    @precondition(lambda self: self.engine.live)
    @rule(count=st.integers(1, 6))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()
            self.owned_blocks_are_counted()

    @precondition(lambda self: self.engine.live)
    @rule(data=st.data(), while_running=st.booleans())
    def abort(self, data: st.DataObject, while_running: bool) -> None:
        request = data.draw(st.sampled_from(self.engine.live))
        if while_running:
            self.engine.step(aborted_meanwhile=request)
        else:
            self.engine.abort(request)
        assert request.status is Status.FINISHED

    @invariant()
    def owned_blocks_are_counted(self) -> None:
        requests = self.engine.ends
        check_ownership(
            self.engine.scheduler.blocks, [sequence for request in requests for sequence in request.sequences]
        )
        for request in requests:
            if request.status is not Status.RUNNING:
                assert not any(sequence.blocks for sequence in request.sequences)

    @invariant()
    def a_kept_state_is_that_of_its_digest(self) -> None:
        snapshots = self.engine.scheduler.blocks.snapshots
        for digest, number in snapshots._numbers.items() if snapshots else ():
            assert self.contents[digest][-1] == self.engine.memory.snapshots[number]

    @invariant()
    def a_cached_block_never_changes(self) -> None:
        for pool in self.engine.scheduler.blocks.pools:
            for digest, block in pool._block_of.items():
                content = self.engine.memory.blocks[block]
                assert None not in content
                assert self.contents.setdefault(digest, list(content)) == content

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.drain()
            assert all(pool.num_free == pool.group.count for pool in self.engine.scheduler.blocks.pools)


Histories.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHistories = Histories.TestCase


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("num_snapshots", [None, 5])
@pytest.mark.parametrize("enable_prefix_caching", [False, True])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_random_histories_reach_preemption_copies_eviction_and_hits(
    policy: str, enable_prefix_caching: bool, num_snapshots: int | None, window: int | None
) -> None:
    """Guards the histories above against a day on which they no longer test what they are for."""
    groups = [BlockGroup(0, 18), BlockGroup(18, 18, window)] if window else [BlockGroup(0, 18)]
    blocks = BlockManager(groups, 3, enable_prefix_caching, num_snapshots=num_snapshots)
    scheduler = Scheduler(
        blocks,
        max_num_seqs=9,
        max_num_batched_tokens=24,
        max_logits_rows=9,
        max_model_len=20,
        policy=policy,
    )
    engine = Engine(scheduler)
    num_copies = num_preempted = 0
    ever_cached: set[bytes] = set()
    for index in range(60):
        prompt = [index // 7 % 2] * 4 + [index % 2] * (1 + index % 6)
        width = 1 + index % 3
        engine.add(make_request(str(index), prompt, 8, max_sequences=width, lockstep=index % 5 < 3, priority=index % 4))
        plan = engine.step()
        assert plan is not None
        num_copies += len(plan.copies)
        num_preempted += len(plan.preempted)
        ever_cached |= blocks.pools[0]._block_of.keys()
    engine.drain()
    assert num_copies > 10
    assert num_preempted > 5
    assert (engine.memory.num_loads > 20) == (enable_prefix_caching and num_snapshots is not None)
    assert (scheduler.num_prefix_hits > 50) == enable_prefix_caching
    assert (len(ever_cached) > 2 * blocks.num_blocks) == enable_prefix_caching
