"""Models of which some layers have a window, through the whole engine: those give back what it has passed."""

from dataclasses import replace

import pytest

from octavo.engine.engine import Engine
from octavo.request import Prompt

from .runs import GREEDY, TOKENS, Run, assert_same, load_small, save_small


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("windows"), "Qwen2")[0]


@pytest.fixture(params=["native", "torch"])
def model(request, checkpoint):
    return load_small(checkpoint, request.param)


def test_with_the_prefix_cache_is_as_without(model):
    """The same prompt, one that is longer, an answer that is asked on about, and others that begin like it."""
    begin = TOKENS[:70]
    run = Run(model, [begin])
    talk = [*begin, *run[0][0][0], *TOKENS[80:90]]
    asked = [begin, [*begin, 5, 6], talk, [*begin[:50], 7], [*begin[:20], 8]]
    cached = []
    for number, prompt in enumerate(asked, 1):
        request = run.submit(number, prompt)
        run.drain()
        cached.append(request.num_cached_tokens)
    for number, prompt in enumerate(asked, 1):
        assert_same(model, run[number], Run(model, [prompt], enable_prefix_caching=False)[0])
    assert cached == [64, 64, 96, 48, 16]


def test_a_prefix_whose_window_is_gone_is_computed_again(model):
    run = Run(model, [TOKENS[:70]])
    narrow = run.engine.scheduler.blocks.pools[1]
    for block in list(narrow._idle):  # as if others had evicted all
        narrow._evicted(digest := narrow._digest_of.pop(block))
        del narrow._block_of[digest], narrow._idle[block]
        narrow._free.append(block)
    again = run.submit(1, TOKENS[:70])
    run.drain()
    assert again.num_cached_tokens == 0
    assert_same(model, run[1], run[0])


def test_a_long_request_holds_what_its_windows_need(checkpoint):
    """300 tokens in the layers that look at everything, and in the others a window and one step of 32."""
    model = load_small(checkpoint, "native", max_model_len=512, max_num_batched_tokens=32)
    engine, most = Engine(model), 0
    engine.submit("a", Prompt(None, [3 + i % 7 for i in range(200)]), replace(GREEDY, max_tokens=100))
    (sequence,) = engine.jobs["a"].request.sequences
    while engine.has_work:
        engine.step()
        if sequence.tables:
            assert len(sequence.tables[0].held) == -(-sequence.num_computed // 16)
            most = max(most, len(sequence.tables[1].held))
    assert most <= (16 + 32 + 16) // 16


def test_the_plan_has_less_room_where_windows_need_less(checkpoint):
    """For 2 requests of 512 tokens, where there is a window only twice the room for 2 windows and a step."""
    model = load_small(checkpoint, "native", max_model_len=512, max_num_seqs=2, max_num_batched_tokens=32)
    groups, sizes = model.plan.groups, model.plan.kv_bytes_per_block
    assert [(group.first, group.count) for group in groups] == [(0, 64), (64, 12)]
    assert sizes == tuple(layers * 16 * 2 * 2 * 16 * 4 for layers in (1, 2))
    assert model.executor.native.kv_bytes == model.plan.kv_cache == 64 * sizes[0] + 12 * sizes[1]
