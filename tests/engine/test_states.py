"""Models with states through the whole engine, however requests are cut, preempted, copied, and cached."""

from dataclasses import replace

import numpy as np
import pytest

from checkpoints import reference_tokens, save_checkpoint, save_tokenizer
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load
from octavo.readers import READERS
from octavo.request import Prompt
from octavo.sampling_params import SamplingParams

DELTA = {"num_hidden_layers": 4, "head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
DELTA |= {"linear_key_head_dim": 12, "linear_value_head_dim": 20}
MODELS = {
    "Qwen3_5Text": {**DELTA, "pad_token_id": None, "vocab_size": 500, "max_position_embeddings": 256},
    "Lfm2": {"pad_token_id": None, "num_hidden_layers": 3, "full_attn_idxs": [1], "block_auto_adjust_ff_dim": False}
    | {"vocab_size": 500, "max_position_embeddings": 256, "tie_word_embeddings": False},
}
TOKENS = np.random.default_rng(1).integers(2, 480, 200).tolist()
GREEDY = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True, logprobs=2)
CHUNKS = {"max_num_batched_tokens": 7}


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    model = save_checkpoint(path, request.param, **MODELS[request.param])
    save_tokenizer(path, "And so, my fellow Americans: ask not what your country can do for you")
    return path, model


@pytest.fixture(params=["native", "torch"])
def model(request, checkpoint):
    sizes = {"max_num_seqs": 6, "block_size": 16, "max_num_batched_tokens": 64, "max_model_len": 160}
    config = EngineConfig(model=str(checkpoint[0]), dtype="float32", executor=request.param, **sizes)
    return load(config, READERS)


class Run:
    """Requests run to their end on an engine of their own; `plan` and `config` are changes of the model's."""

    def __init__(self, model, prompts, params=GREEDY, plan=(), **config):
        changed = replace(model, plan=replace(model.plan, **dict(plan)), config=replace(model.config, **config))
        self.engine, self.outputs = Engine(changed), {}
        self.requests = [self.submit(number, prompt, params) for number, prompt in enumerate(prompts)]
        self.drain()

    def submit(self, number, prompt, params=GREEDY):
        self.engine.submit(str(number), Prompt(None, prompt), params)
        return self.engine.jobs[str(number)].request

    def drain(self):
        while self.engine.has_work:
            self.outputs |= {int(output.request_id): output for output in self.engine.step()}

    def __getitem__(self, number):
        output = self.outputs[number]
        assert output.error is None
        return [
            (one.token_ids, [[(i, e.logprob) for i, e in entry.items()] for entry in one.logprobs])
            for one in output.outputs
        ]


def assert_same(model, found, expected):
    """To the last bit, where the executor is invariant."""
    if model.executor.runs_ahead:
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    else:
        assert found == expected


def test_greedy_tokens_are_transformers_s_alone_in_chunks_and_in_a_batch(checkpoint, model):
    prompts = [TOKENS[:40], TOKENS[3:9], TOKENS[7:8]]
    expected = [reference_tokens(checkpoint[1], prompt, np.argmax, 32) for prompt in prompts]
    for plan in ((), CHUNKS):
        found = Run(model, prompts, plan=plan, max_num_seqs=3)
        assert [found[i][0][0] for i in range(3)] == expected
        assert_same(model, Run(model, prompts[:1])[0], found[0])


@pytest.mark.parametrize("caching", [False, True])
def test_preempted_is_as_uninterrupted(model, caching):
    prompts = [TOKENS[i : i + 30] for i in range(5)]
    calm = Run(model, prompts)
    pressed = Run(model, prompts, plan={"num_blocks": 12, "max_model_len": 100}, enable_prefix_caching=caching)
    assert sum(request.num_preemptions for request in pressed.requests) > 0
    for i in range(5):
        assert_same(model, pressed[i], calm[i])


def test_samples_go_on_from_a_copied_state(model):
    params = SamplingParams(n=4, temperature=1.0, seed=3, max_tokens=24, ignore_eos=True, logprobs=2)
    together = Run(model, [TOKENS[:21], TOKENS[50:60]], params)
    again = Run(model, [TOKENS[50:60], TOKENS[:21]], params, plan=CHUNKS)
    assert len({tuple(tokens) for tokens, _ in together[0]}) == 4
    for i in range(2):
        assert_same(model, again[1 - i], together[i])


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


def test_the_budget_of_kept_states_is_kept(model):
    run = Run(model, [TOKENS[i : i + 40] for i in range(8)], plan={"num_snapshots": 1})
    again = run.submit(9, TOKENS[7:47])
    run.drain()
    assert again.num_cached_tokens in (0, 32)
    assert_same(model, run[9], run[7])
    without = Run(model, [TOKENS[:40]] * 2, plan={"num_snapshots": 0})
    assert_same(model, without[1], without[0])
    assert without.requests[1].num_cached_tokens == 0
