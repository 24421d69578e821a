"""Bit for bit: what a request gets never depends on what runs beside it, nor on how its work was cut."""

from dataclasses import replace

import numpy as np
import pytest

from harness import logits_of
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load
from octavo.readers import READERS
from octavo.request import Prompt
from octavo.sampling_params import SamplingParams

LENGTHS = [1, 2, 3, 5, 9, 15, 16, 17, 30, 31, 32, 33, 34, 47, 63, 64]
LENGTHS += [65, 100, 127, 128, 129, 130, 150, 200, 255, 256, 257, 270, 4, 12, 520, 700]
SOME = [0, 7, 10, 23, 27, 30, 31]  # of them: those that are run alone


GREEDY = SamplingParams(temperature=0, max_tokens=12, logprobs=3, ignore_eos=True)


def seeded(number=0):
    params = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}
    return SamplingParams(**params, seed=number, max_tokens=12, logprobs=3, ignore_eos=True)


def params_of(number):
    """Every other request is greedy: each kind has both for neighbours."""
    return seeded(number) if number % 2 else GREEDY


@pytest.fixture(scope="module", params=[("bfloat16", "auto"), ("float32", "auto"), ("bfloat16", "int8")])
def model(request, real_model):
    dtype, cache = request.param
    sizes = {"max_model_len": 1024, "max_num_seqs": 32}
    config = EngineConfig(model=str(real_model), dtype=dtype, kv_cache_dtype=cache, **sizes)
    return load(replace(config, enable_prefix_caching=False), READERS)


@pytest.fixture(scope="module")
def prompts(model, inaugural_text):
    """Pieces of the text, of the LENGTHS, each from another place."""
    tokens = model.tokenizer.encode(inaugural_text)
    return [tokens[11 * i : 11 * i + length] for i, length in enumerate(LENGTHS)]


class Run:
    """Requests run to their end on an engine of their own, which shares the model's weights and cache.

    `plan` and `config` are changes of the model's.
    """

    def __init__(self, model, prompts, params, plan=(), config=()):
        changed = replace(model, plan=replace(model.plan, **dict(plan)), config=replace(model.config, **dict(config)))
        self.engine = Engine(changed)
        self.requests, self.outputs = [], {}
        for number, (prompt, param) in enumerate(zip(prompts, params, strict=True)):
            self.engine.submit(str(number), Prompt(None, prompt), param)
            self.requests.append(self.engine.jobs[str(number)].request)
        while self.engine.has_work:
            for output in self.engine.step():
                self.outputs[int(output.request_id)] = output

    def __getitem__(self, number):
        """What a user sees of a request: tokens and log-probabilities of each sample, to the last bit."""
        output = self.outputs[number]
        assert output.error is None
        return [
            (
                sample.token_ids,
                [[(i, e.logprob, e.rank) for i, e in entry.items()] for entry in sample.logprobs],
            )
            for sample in output.outputs
        ]


def test_alone_is_as_in_a_batch_of_32(model, prompts):
    batch = Run(model, prompts, [params_of(i) for i in range(32)])
    for number in SOME:
        assert Run(model, [prompts[number]], [params_of(number)])[0] == batch[number]


@pytest.mark.parametrize(("number", "chunk"), [(27, 1), (26, 7), (27, 64), (30, 64), (31, 64)])
def test_a_whole_prompt_is_as_chunks(model, prompts, number, chunk):
    config, plan = {"max_num_seqs": 1}, {"max_num_batched_tokens": chunk}
    if (model.config.dtype, chunk) == ("float32", 1):
        number = 9
    whole = Run(model, [prompts[number]], [params_of(number)])
    assert Run(model, [prompts[number]], [params_of(number)], plan, config)[0] == whole[0]


def test_preempted_is_as_uninterrupted(model, prompts):
    numbers = [9, 10, 14, 18, 24]  # just under 1, 1, 2, 4 and 8 blocks: all fit in, none can grow
    some, given = [prompts[i] for i in numbers], [params_of(i) for i in range(len(numbers))]
    calm = Run(model, some, given)
    pressed = Run(model, some, given, {"num_blocks": 16, "max_model_len": 320})
    assert sum(request.num_preemptions for request in calm.requests) == 0
    assert sum(request.num_preemptions for request in pressed.requests) > 0
    for i in range(len(numbers)):
        assert pressed[i] == calm[i]


def test_with_the_prefix_cache_is_as_without(model, prompts):
    begin = prompts[31]
    some = [begin[:600], begin[:600], [*begin[:300], 5, 6, 7], begin[:64], begin[:65], begin[:600]]
    given = [params_of(i) for i in range(len(some))]
    without = Run(model, some, given)
    cached = Run(
        model,
        some,
        given,
        {"max_num_batched_tokens": 256},
        {"enable_prefix_caching": True, "max_num_seqs": 2},
    )
    assert [bool(request.num_cached_tokens) for request in without.requests] == [False] * 6
    assert cached.requests[5].num_cached_tokens >= 576
    for i in range(len(some)):
        assert cached[i] == without[i]


def test_one_thread_is_as_two_or_three(model, prompts, threads):
    numbers = [0, 9, 24, 30]
    some, given = [prompts[i] for i in numbers], [params_of(i) for i in range(len(numbers))]
    runs = []
    for count in (1, 2, 3):
        threads(count)
        runs += [Run(model, some, given), Run(model, some[-1:], given[-1:])]
    for together, alone in zip(runs[::2], runs[1::2], strict=True):
        assert [together[i] for i in range(4)] == [runs[0][i] for i in range(4)]
        assert alone[0] == runs[0][3]


def test_samples_of_one_request_are_as_those_of_requests_of_their_own(model, prompts):
    several = replace(seeded(7), n=3)
    in_batch = Run(model, [prompts[23], *prompts[:8]], [several, *(seeded(i) for i in range(8))])
    alone = Run(model, [prompts[23]], [several])
    assert alone[0] == in_batch[0]
    assert len({tuple(tokens) for tokens, _ in alone[0]}) == 3
    assert Run(model, [prompts[23]], [seeded(7)])[0][0] == alone[0][0]


def test_prompt_logprobs_are_as_chunks(model, prompts):
    params = replace(GREEDY, prompt_logprobs=2, max_tokens=1)
    whole = Run(model, [prompts[27]], [params])
    for rows, tokens in ((64, 33), (7, 512)):
        plan, config = {"max_num_batched_tokens": tokens, "max_logit_rows": rows}, {"max_num_seqs": 1}
        chunked = Run(model, [prompts[27]], [params], plan, config)
        assert chunked.outputs[0].prompt_logprobs == whole.outputs[0].prompt_logprobs


def test_every_logit_is_the_same_however_the_prompt_is_cut(model, prompts, threads):
    prompt = prompts[30]
    threads(2)
    whole = logits_of(model.executor, prompt, [64])
    for sizes, count in (([85], 2), ([80, 13, 1, 70], 1), ([16, 50], 3)):
        threads(count)
        np.testing.assert_array_equal(logits_of(model.executor, prompt, sizes), whole)
