from __future__ import annotations

from typing import Any

import pytest

from octavo.errors import ConfigError, PromptError, PromptTooLongError, RequestError
from octavo.graph.cache import BlockGroup
from octavo.request import BACKGROUND, Request, Status, StepPlan
from octavo.scheduler.blocks import BlockManager
from octavo.scheduler.scheduler import Scheduler

from .model import Engine, make_request


def make(num_blocks: int = 64, block_size: int = 2, caching: bool = False, **options: Any) -> Engine:
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 32, "max_model_len": 64, "max_logits_rows": 16}
    return Engine(Scheduler(BlockManager([BlockGroup(0, num_blocks)], block_size, caching), **{**limits, **options}))


def work(plan: StepPlan | None) -> list[tuple[str, int]]:
    """What a plan computes: ids of requests and numbers of tokens, in its order."""
    assert plan is not None
    return [(chunk.request.id, chunk.count) for chunk in plan.chunks]


def prompt(request: str, length: int) -> list[int]:
    """A prompt that shares no prefix with those of other requests."""
    return [ord(request[0])] * length


def add(engine: Engine, id: str, length: int, max_tokens: int | None = 8, **options: Any) -> Request:
    return engine.add(make_request(id, prompt(id, length), max_tokens, **options))


# Budgets


def test_a_new_scheduler_has_nothing_to_plan() -> None:
    engine = make()
    assert engine.scheduler.plan() is None
    assert not engine.scheduler.has_work


def test_a_prompt_is_computed_at_once_where_the_budget_allows() -> None:
    engine = make()
    add(engine, "a", 5)
    add(engine, "b", 3)
    assert work(engine.step()) == [("a", 5), ("b", 3)]
    assert work(engine.step()) == [("a", 1), ("b", 1)]


def test_a_long_prompt_is_cut_into_chunks_beside_the_decodes() -> None:
    engine = make(max_num_batched_tokens=8)
    add(engine, "a", 2)
    engine.step()
    add(engine, "b", 17)
    assert work(engine.step()) == [("a", 1), ("b", 7)]
    assert work(engine.step()) == [("a", 1), ("b", 7)]
    assert work(engine.step()) == [("a", 1), ("b", 3)]
    assert work(engine.step()) == [("a", 1), ("b", 1)]


def test_a_prompt_that_has_begun_goes_before_new_ones() -> None:
    engine = make(max_num_batched_tokens=8)
    add(engine, "a", 10)
    add(engine, "b", 3)
    assert work(engine.step()) == [("a", 8)]
    assert work(engine.step()) == [("a", 2), ("b", 3)]


def test_only_the_last_chunk_of_a_prompt_is_sampled_from() -> None:
    engine = make(max_num_batched_tokens=8)
    request = add(engine, "a", 10)
    engine.step()
    assert request.sequences[0].output_tokens == []
    engine.step()
    assert len(request.sequences[0].output_tokens) == 1


def test_the_seats_of_all_possible_sequences_are_taken_at_admission() -> None:
    engine = make(max_num_seqs=4)
    add(engine, "a", 2, max_sequences=3)
    add(engine, "b", 2, max_sequences=2)
    add(engine, "c", 2)
    assert work(engine.step()) == [("a", 2)]  # c does not overtake b
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (1, 2)


def test_a_request_waits_until_there_are_blocks_for_its_whole_prompt() -> None:
    engine = make(num_blocks=8, max_num_batched_tokens=8)
    first = add(engine, "a", 8)
    add(engine, "b", 10, max_tokens=2)
    assert work(engine.step()) == [("a", 8)]
    engine.abort(first)
    assert work(engine.step()) == [("b", 8)]


def test_prompt_logits_are_limited_to_the_rows_that_there_are() -> None:
    engine = make(max_num_seqs=2, max_logits_rows=5)
    add(engine, "a", 1)
    engine.step()
    add(engine, "b", 9, needs_all_rows=True)
    assert [work(engine.step()) for _ in range(4)] == [[("a", 1), ("b", count)] for count in (4, 4, 1, 1)]


def test_a_prompt_stops_before_its_last_token_while_no_row_of_logits_is_left() -> None:
    engine = make(max_num_seqs=2, max_logits_rows=4)
    add(engine, "a", 6, needs_all_rows=True)
    add(engine, "b", 6)
    assert work(engine.step()) == [("a", 4), ("b", 5)]
    assert work(engine.step()) == [("b", 1), ("a", 2)]


def test_without_chunked_prefill_a_prompt_waits_until_it_fits_whole() -> None:
    engine = make(max_num_batched_tokens=8, enable_chunked_prefill=False)
    first = add(engine, "a", 2)
    engine.step()
    add(engine, "b", 8)
    add(engine, "c", 2)
    assert work(engine.step()) == [("a", 1)]
    engine.abort(first)
    assert work(engine.step()) == [("b", 8)]


@pytest.mark.parametrize("name", ["max_num_batched_tokens", "max_logits_rows"])
def test_limits_leave_room_for_every_running_sequence(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=7: must be at least max_num_seqs, which is 8"):
        make(**{name: 7})


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy='lifo'.*fcfs, priority"):
        make(policy="lifo")


# The prefix cache


def test_a_cached_prefix_is_not_computed_again() -> None:
    engine = make(caching=True)
    engine.add(make_request("a", [1, 2, 3, 4, 5]))
    engine.step()
    request = engine.add(make_request("b", [1, 2, 3, 4, 6]))
    assert work(engine.step())[1:] == [("b", 1)]
    assert request.num_cached_tokens == 4
    assert (engine.scheduler.num_prefix_queries, engine.scheduler.num_prefix_hits) == (10, 4)


def test_prefix_hits_are_counted_once_however_often_a_request_is_tried() -> None:
    engine = make(num_blocks=8, caching=True)
    first = engine.add(make_request("a", [1] * 6, 8))
    engine.step()
    engine.add(make_request("b", [1] * 6 + [2] * 9, 1))
    for _ in range(4):
        assert work(engine.step()) == [("a", 1)]
    assert engine.scheduler.num_prefix_queries == 6
    engine.abort(first)
    engine.step()
    assert (engine.scheduler.num_prefix_queries, engine.scheduler.num_prefix_hits) == (21, 6)


def test_prompt_logits_need_every_token_so_no_prefix_is_used() -> None:
    engine = make(caching=True)
    engine.add(make_request("a", [1, 2, 3, 4, 5]))
    engine.step()
    request = engine.add(make_request("b", [1, 2, 3, 4, 6], needs_all_rows=True))
    assert work(engine.step())[1:] == [("b", 5)]
    assert request.num_cached_tokens == 0


# Tokens that are not accepted


def test_rejected_tokens_are_computed_again_and_their_block_is_not_cached() -> None:
    scheduler = make(block_size=2, caching=True).scheduler
    request = make_request("a", [1, 2, 3, 4, 5, 6])
    scheduler.add(request)
    plan = scheduler.plan()
    assert plan is not None
    (sequence,) = request.sequences
    sequence.tokens[3:] = [7]  # of six computed tokens three are accepted, and another follows
    scheduler.commit(plan, [3])
    assert sequence.num_computed == 3
    plan = scheduler.plan()
    assert plan is not None
    assert [(chunk.start, chunk.count) for chunk in plan.chunks] == [(3, 1)]
    assert plan.copies == []
    for tokens, num_cached in ([1, 2, 3, 4, 5], 2), ([1, 2, 3, 7, 5], 2):
        other = make_request("b", tokens).sequences[0]
        assert scheduler.blocks.match_prefix(other, len(tokens), request.prompt.scope) == num_cached
        scheduler.blocks.release(other)
    scheduler.commit(plan, [1])
    other = make_request("b", [1, 2, 3, 7, 5]).sequences[0]
    assert scheduler.blocks.match_prefix(other, 5, request.prompt.scope) == 4


def test_what_is_accepted_is_said_of_every_chunk() -> None:
    scheduler = make().scheduler
    scheduler.add(make_request("a", [1, 2]))
    plan = scheduler.plan()
    assert plan is not None
    with pytest.raises(ValueError, match="zip"):
        scheduler.commit(plan, [])


# Preemption


def test_the_latest_request_is_preempted_when_blocks_run_out() -> None:
    engine = make(num_blocks=8)
    first = add(engine, "a", 5, max_tokens=9)
    second = add(engine, "b", 5, max_tokens=9)
    plans = [engine.step() for _ in range(5)]
    assert [plan.preempted for plan in plans if plan] == [[], [], [], [], [second]]
    assert work(plans[-1]) == [("a", 1)]
    assert second.status is Status.WAITING
    assert (second.num_preemptions, first.num_preemptions) == (1, 0)
    assert (second.sequences[0].blocks, second.sequences[0].num_computed) == ([], 0)


def test_a_preempted_request_keeps_its_tokens_and_goes_on_before_those_that_wait() -> None:
    engine = make(num_blocks=8)
    first = add(engine, "a", 5, max_tokens=9)
    second = add(engine, "b", 5, max_tokens=9)
    for _ in range(5):
        engine.step()
    add(engine, "c", 1)
    tokens = second.sequences[0].tokens.copy()
    assert len(tokens) > 5
    engine.abort(first)
    assert work(engine.step()) == [("b", len(tokens)), ("c", 1)]
    assert second.sequences[0].tokens[: len(tokens)] == tokens
    engine.drain()


def test_the_latest_request_keeps_its_blocks_while_it_waits_for_more() -> None:
    engine = make(num_blocks=5)
    add(engine, "a", 5, max_tokens=2)  # ends in the blocks that it has
    second = add(engine, "b", 4, max_tokens=6)
    engine.step()
    assert work(engine.step()) == [("a", 1)]
    assert len(second.sequences[0].blocks) == 2
    assert second.status is Status.RUNNING
    engine.drain()
    assert second.num_preemptions == 0


def test_nothing_is_admitted_while_a_running_request_lacks_blocks() -> None:
    engine = make(num_blocks=8, max_num_batched_tokens=8)
    add(engine, "a", 2, max_tokens=2, max_sequences=3)
    add(engine, "b", 12, max_tokens=1)
    assert work(engine.step()) == [("a", 2), ("b", 6)]
    add(engine, "c", 1, max_tokens=1)
    assert work(engine.step()) == [("a", 1)] * 3  # one block is left, b needs three, c would need one
    assert work(engine.step()) == [("b", 6), ("c", 1)]


def test_a_prompt_takes_blocks_from_decodes_of_lower_rank_and_takes_those_out_of_the_plan() -> None:
    engine = make(num_blocks=7, max_num_batched_tokens=9, policy="priority")
    low = add(engine, "z", 3, max_tokens=9, priority=1)
    engine.step()
    high = add(engine, "a", 10, max_tokens=2, priority=0)
    assert work(engine.step()) == [("z", 1), ("a", 8)]
    plan = engine.step()  # z was planned first, with what was the last block
    assert plan is not None
    assert plan.preempted == [low]
    assert work(plan) == [("a", 2)]
    assert high.num_preemptions == 0
    engine.drain()


def test_a_request_taken_out_of_the_plan_takes_its_copies_along_and_no_others() -> None:
    engine = make(num_blocks=8, policy="priority")
    low = add(engine, "z", 3, max_tokens=4, max_sequences=2, priority=2)
    middle = add(engine, "m", 3, max_tokens=4, max_sequences=2, priority=1)
    assert work(engine.step()) == [("m", 3), ("z", 3)]
    add(engine, "a", 8)  # z has its chunks and a copy when its blocks turn out to be needed
    plan = engine.step()
    assert plan is not None
    assert plan.preempted == [low]
    assert work(plan) == [("m", 1), ("m", 1), ("a", 8)]
    copied, kept = middle.sequences
    assert plan.copies == [(kept.blocks[1], copied.blocks[1])]
    engine.drain()


def test_a_preempted_request_does_not_come_back_in_the_same_step() -> None:
    engine = make(num_blocks=8)
    add(engine, "a", 3, max_tokens=5)
    samples = add(engine, "b", 3, max_tokens=5, max_sequences=2)
    for _ in range(4):
        engine.step()
    plan = engine.step()
    assert plan is not None
    assert plan.preempted == [samples]
    assert engine.scheduler.blocks.fits(samples.sequences[0], len(samples.sequences[0].tokens))
    assert work(plan) == [("a", 1)]
    engine.drain()


def test_tokens_of_a_request_taken_out_of_the_plan_go_back_to_the_budget() -> None:
    engine = make(max_num_seqs=4, max_num_batched_tokens=4, policy="priority")
    add(engine, "z", 2, max_sequences=3, priority=1)
    engine.step()
    add(engine, "a", 4, max_sequences=2)
    assert work(engine.step()) == [("a", 4)]


# Priority


def test_requests_are_admitted_by_priority_then_arrival() -> None:
    engine = make(max_num_seqs=1, policy="priority")
    for id, priority in [("a", 1), ("b", 0), ("c", 1), ("d", 0)]:
        add(engine, id, 1, max_tokens=1, priority=priority)
    assert [work(engine.step()) for _ in range(4)] == [[(id, 1)] for id in "bdac"]


def test_first_come_first_served_ignores_priority() -> None:
    engine = make(max_num_seqs=1)
    for id, priority in [("a", 1), ("b", 0)]:
        add(engine, id, 1, max_tokens=1, priority=priority)
    assert [work(engine.step()) for _ in range(2)] == [[(id, 1)] for id in "ab"]


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_requests_in_the_background_are_behind_all_others(policy: str) -> None:
    engine = make(max_num_seqs=1, policy=policy)
    low = add(engine, "z", 2, max_tokens=3, priority=BACKGROUND)
    engine.step()
    for id, priority in [("y", BACKGROUND), ("a", 2**31 - 1)]:
        add(engine, id, 2, max_tokens=1, priority=priority)
    plan = engine.step()
    assert plan is not None
    assert plan.preempted == [low]
    assert work(plan) == [("a", 2)]
    assert work(engine.step()) == [("z", 3)]
    engine.drain()


def test_a_prompt_in_the_background_that_has_begun_lets_others_pass() -> None:
    engine = make(max_num_seqs=2, max_num_batched_tokens=4)
    add(engine, "z", 10, max_tokens=1, priority=BACKGROUND)
    assert work(engine.step()) == [("z", 4)]
    add(engine, "a", 3, max_tokens=1)
    assert work(engine.step()) == [("a", 3), ("z", 1)]
    assert work(engine.step()) == [("z", 4)]
    engine.drain()


def test_a_waiting_request_takes_the_seat_of_one_of_worse_priority() -> None:
    engine = make(max_num_seqs=2, policy="priority")
    for id, priority in [("a", 1), ("b", 2)]:
        add(engine, id, 2, priority=priority)
    engine.step()
    add(engine, "c", 2, priority=1)
    add(engine, "d", 2, priority=1)
    plan = engine.step()
    assert plan is not None
    assert work(plan) == [("a", 1), ("c", 2)]
    assert [request.id for request in plan.preempted] == ["b"]
    plan = engine.step()  # d is no better than a and c
    assert plan is not None
    assert plan.preempted == []


def test_a_waiting_request_takes_the_blocks_of_one_of_worse_priority() -> None:
    engine = make(num_blocks=4, policy="priority")
    low = add(engine, "a", 4, max_tokens=4, priority=1)
    engine.step()
    high = add(engine, "b", 5, max_tokens=3, priority=0)
    plan = engine.step()
    assert plan is not None
    assert work(plan) == [("b", 5)]
    assert plan.preempted == [low]
    assert high.num_preemptions == 0


# Several sequences


def test_samples_share_their_prompt_and_decode_side_by_side() -> None:
    engine = make()
    request = add(engine, "a", 5, max_sequences=3)
    assert work(engine.step()) == [("a", 5)]
    assert len({tuple(sequence.blocks) for sequence in request.sequences}) == 1
    plan = engine.step()
    assert work(plan) == [("a", 1)] * 3
    assert plan is not None
    assert len(plan.copies) == 2  # the last to write keeps the block
    assert len({tuple(sequence.blocks[:2]) for sequence in request.sequences}) == 1


def test_a_finished_sequence_gives_its_own_blocks_back_at_once() -> None:
    engine = make()
    request = add(engine, "a", 5, max_sequences=3)
    engine.step()
    engine.step()
    before = engine.scheduler.blocks.pools[0].num_free
    sequence = request.sequences[1]
    for _ in range(2):  # again is harmless
        engine.scheduler.finish_sequence(request, sequence)
    assert engine.scheduler.blocks.pools[0].num_free == before + 1
    assert sequence not in request.sequences
    assert work(engine.step()) == [("a", 1)] * 2


def preempt_now(engine: Engine, request: Request) -> None:
    """Preempts the only running request, by one of better priority that comes and goes."""
    urgent = add(engine, "urgent", 1, max_sequences=engine.scheduler.max_num_seqs, priority=-1)
    engine.step()
    assert request.num_preemptions > 0
    engine.abort(urgent)


def test_samples_catch_up_one_after_the_other_and_find_their_prompt_in_the_cache() -> None:
    engine = make(caching=True, policy="priority")
    request = add(engine, "a", 8, max_sequences=3)
    engine.step()
    engine.step()
    preempt_now(engine, request)
    (pool,) = engine.scheduler.blocks.pools
    pool._idle.clear()  # as if others had evicted all
    pool._block_of.clear()
    pool._digest_of.clear()
    pool._free = [block for block, count in pool._num_owners.items() if count == 0]
    assert work(engine.step()) == [("a", 10)]
    assert work(engine.step()) == [("a", 1), ("a", 2)]
    assert work(engine.step()) == [("a", 1), ("a", 1), ("a", 2)]
    assert work(engine.step()) == [("a", 1)] * 3


def test_beams_decode_together_or_not_at_all() -> None:
    engine = make(policy="priority")
    request = add(engine, "a", 8, max_sequences=2, lockstep=True)
    engine.step()
    engine.step()
    preempt_now(engine, request)
    for sequence in request.sequences:
        assert sequence.num_pending == 10
    assert work(engine.step()) == [("a", 9)]  # all but the newest token
    assert work(engine.step()) == [("a", 9)]
    assert work(engine.step()) == [("a", 1)] * 2


def test_a_beam_found_whole_in_the_cache_still_has_a_token_to_catch_up() -> None:
    engine = make(caching=True, policy="priority")
    request = add(engine, "a", 8, max_sequences=2, lockstep=True)
    engine.step()
    assert [len(sequence.tokens) for sequence in request.sequences] == [9, 9]
    preempt_now(engine, request)
    assert work(engine.step()) == [("a", 2)]  # of 8 cached tokens the last block is not used
    engine.drain()


def test_beams_that_lack_blocks_wait_together() -> None:
    engine = make(num_blocks=6)
    add(engine, "a", 5, max_tokens=2)
    beams = add(engine, "b", 4, max_tokens=2, max_sequences=2, lockstep=True)
    engine.step()
    assert engine.scheduler.blocks.pools[0].num_free == 1  # each beam needs one
    assert work(engine.step()) == [("a", 1)]
    assert [sequence.num_pending for sequence in beams.sequences] == [1, 1]
    engine.drain()
    assert beams.num_preemptions == 0


# Ends


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_an_abort_returns_the_request_once_and_frees_all_its_blocks(num_steps: int) -> None:
    engine = make()
    request = add(engine, "a", 40, max_sequences=2)
    for _ in range(num_steps):
        engine.step()
    assert engine.scheduler.abort("a") is request
    assert engine.scheduler.abort("a") is None
    assert request.status is Status.FINISHED
    assert engine.scheduler.blocks.pools[0].num_free == 64
    assert not engine.scheduler.has_work
    assert engine.scheduler.plan() is None


def test_an_abort_needs_the_exact_id() -> None:
    engine = make()
    add(engine, "request-1", 3)
    assert engine.scheduler.abort("request") is None
    assert engine.scheduler.abort("request-11") is None
    assert engine.scheduler.has_work


def test_what_was_computed_for_a_request_aborted_meanwhile_is_not_noted() -> None:
    engine = make(caching=True)
    request = add(engine, "a", 6)
    other = add(engine, "b", 6)
    engine.step(aborted_meanwhile=request)
    assert request.sequences[0].num_computed == 0
    assert other.sequences[0].num_computed == 6
    late = add(engine, "a", 6)  # the id is free again
    engine.step()
    assert late.num_cached_tokens == 0
    engine.drain()


def test_finishing_twice_is_harmless_even_when_the_id_lives_on() -> None:
    engine = make()
    old = add(engine, "a", 3)
    engine.step()
    engine.scheduler.finish(old)
    new = engine.add(make_request("a", [1, 2, 3]))
    engine.scheduler.finish(old)
    assert engine.scheduler.abort("a") is new


def test_a_fork_after_the_end_owns_nothing() -> None:
    engine = make()
    request = add(engine, "a", 3)
    engine.step()
    parent = request.sequences[0]
    engine.abort(request)
    child = engine._fork(request, parent, 1)
    assert child.blocks == []
    assert engine.scheduler.blocks.pools[0].num_free == 64


# Refusals


def test_the_id_of_a_live_request_is_refused() -> None:
    engine = make()
    add(engine, "a", 3)
    with pytest.raises(RequestError, match="'a' is already running"):
        add(engine, "a", 3)
    assert engine.scheduler.num_waiting == 1


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        add(make(), "a", 0)


def test_a_prompt_that_leaves_no_room_for_a_token_is_refused() -> None:
    engine = make(max_model_len=10)
    add(engine, "a", 9)
    with pytest.raises(PromptTooLongError):
        add(engine, "b", 10)


def test_more_sequences_than_seats_are_refused() -> None:
    with pytest.raises(RequestError, match="needs 9 sequences at once, but max_num_seqs is 8"):
        add(make(), "a", 3, max_sequences=9)


@pytest.mark.parametrize(
    ("length", "max_tokens", "max_sequences", "message"),
    [
        (
            3,
            6,
            2,
            r"may need 10 KV blocks \(2 x 9 tokens in blocks of 2\).* 8; max_tokens of at most 5 would fit",
        ),
        (3, None, 1, r"may need 10 KV blocks \(1 x 20 tokens .* 8; max_tokens of at most 13 would fit"),
        (9, 1, 2, r"may need 10 KV blocks \(2 x 10 tokens .* 8; with this many sequences at most 8 tokens"),
    ],
)
def test_a_request_that_could_outgrow_the_whole_cache_is_refused_with_the_arithmetic(
    length: int, max_tokens: int | None, max_sequences: int, message: str
) -> None:
    engine = make(num_blocks=8, max_model_len=20)
    with pytest.raises(RequestError, match=message):
        add(engine, "a", length, max_tokens, max_sequences=max_sequences)
    assert not engine.scheduler.has_work


def test_a_request_that_needs_the_whole_cache_is_accepted_and_finishes() -> None:
    engine = make(num_blocks=8)
    add(engine, "a", 3, max_tokens=5, max_sequences=2)
    add(engine, "b", 3, max_tokens=13)
    engine.drain()


@pytest.mark.parametrize(("rows", "name"), [(16, "max_logits_rows"), (64, "max_num_batched_tokens")])
def test_without_chunked_prefill_a_prompt_larger_than_a_step_is_refused(rows: int, name: str) -> None:
    engine = make(enable_chunked_prefill=False, max_logits_rows=rows)
    with pytest.raises(PromptError, match=f"33 tokens, but without chunked prefill .* {name} is"):
        add(engine, "a", 33, needs_all_rows=True)
    add(engine, "b", 32)
