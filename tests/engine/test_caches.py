"""Every kind of cache through the whole engine, however requests are cut, preempted, copied, and cached."""

import numpy as np
import pytest

from checkpoints import reference_tokens
from octavo.sampling_params import SamplingParams

from .runs import CHUNKS, MODELS, TOKENS, Run, assert_same, load_small, save_small

STATES = ["Qwen3_5Text", "Lfm2"]


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory):
    return save_small(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(params=["native", "torch"])
def model(request, checkpoint):
    return load_small(checkpoint[0], request.param)


def test_greedy_tokens_are_transformers_s_alone_in_chunks_and_in_a_batch(checkpoint, model):
    prompts = [TOKENS[:40], TOKENS[3:9], TOKENS[7:8]]
    expected = [reference_tokens(checkpoint[1], prompt, np.argmax, 32) for prompt in prompts]
    for plan in ((), CHUNKS):
        found = Run(model, prompts, plan=plan, max_num_seqs=3)
        assert [found[i][0][0] for i in range(3)] == expected
        assert_same(model, Run(model, prompts[:1])[0], found[0])


@pytest.mark.parametrize("caching", [False, True])
def test_preempted_is_as_uninterrupted(checkpoint, model, caching):
    prompts = [TOKENS[i : i + 30] for i in range(5)]
    calm = Run(model, prompts)
    small = load_small(checkpoint[0], model.config.executor, num_gpu_blocks_override=12, max_model_len=100)
    pressed = Run(small, prompts, enable_prefix_caching=caching)
    assert sum(request.num_preemptions for request in pressed.requests) > 0
    for i in range(5):
        assert_same(model, pressed[i], calm[i])


def test_samples_go_on_from_where_their_prompt_ends(model):
    params = SamplingParams(n=4, temperature=1.0, seed=3, max_tokens=24, ignore_eos=True, logprobs=2)
    together = Run(model, [TOKENS[:21], TOKENS[50:60]], params)
    again = Run(model, [TOKENS[50:60], TOKENS[:21]], params, plan=CHUNKS)
    assert len({tuple(tokens) for tokens, _ in together[0]}) == 4
    for i in range(2):
        assert_same(model, again[1 - i], together[i])


@pytest.mark.parametrize("checkpoint", STATES, indirect=True)
def test_with_the_prefix_cache_is_as_without(model):
    """The same prompt, one that is longer, an answer that is asked on about, and a part that two have in common."""
    begin = TOKENS[:70]
    run = Run(model, [begin])
    answer = run[0][0][0]
    talk = [*begin, *answer, *TOKENS[80:90]]
    asked = [begin, [*begin, 5, 6], talk, [*begin[:50], 7], [*begin[:50], 8], [*begin[:50], 9]]
    cached = []
    for number, prompt in enumerate(asked, 1):
        request = run.submit(number, prompt)
        run.drain()
        cached.append(request.num_cached_tokens)
    for number, prompt in enumerate(asked, 1):
        assert_same(model, run[number], Run(model, [prompt], enable_prefix_caching=False)[0])
    assert cached[:3] == [64, 64, 96]
    assert cached[3:] == [0, 48, 48]  # the first of them leaves a state where the others branch off


@pytest.mark.parametrize("checkpoint", STATES, indirect=True)
def test_the_budget_of_kept_states_is_kept(model):
    run = Run(model, [TOKENS[i : i + 40] for i in range(8)], plan={"num_snapshots": 1})
    again = run.submit(9, TOKENS[7:47])
    run.drain()
    assert again.num_cached_tokens in (0, 32)
    assert_same(model, run[9], run[7])
    without = Run(model, [TOKENS[:40]] * 2, plan={"num_snapshots": 0})
    assert_same(model, without[1], without[0])
    assert without.requests[1].num_cached_tokens == 0


@pytest.mark.parametrize("cache", ["auto", "int8"])
def test_a_native_executor_takes_what_the_plan_says(checkpoint, cache):
    model = load_small(checkpoint[0], "native", kv_cache_dtype=cache)
    native, plan = model.executor.native, model.plan
    assert native.kv_bytes == plan.kv_cache
    planned = model.footprint.workspace_bytes("float32", plan)
    assert 0.97 * planned <= native.workspace_bytes <= planned


def test_a_torch_executor_takes_what_the_plan_says(checkpoint):
    model = load_small(checkpoint[0], "torch")
    executor, plan = model.executor, model.plan
    assert sum(pages.nbytes for layer in executor.pages for pages in layer) == plan.kv_cache
    slots = plan.max_num_seqs + plan.num_snapshots + 1
    assert sum(state.nbytes for state in executor.states.values()) == slots * plan.state_bytes
