"""An executor that runs ahead: steps begin before the tokens of the last have been read, and no text shows it."""

import random

import pytest

from octavo import SamplingParams
from octavo.request import Prompt

TEXT = "Ask not what your country"


@pytest.fixture
def executor():
    return "torch"


def greedy(**options):
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **options})


def watch(llm, monkeypatch):
    """Notes, step by step, when a step begins and when its tokens are read."""
    events = []
    run = llm.model.executor.run

    class Watched:
        def __init__(self, number, result):
            self.number, self.result = number, result

        def __getattr__(self, name):
            if name == "sampled" and ("read", self.number) not in events:
                events.append(("read", self.number))
            return getattr(self.result, name)

    def watched(step):
        number = sum(kind == "begin" for kind, _ in events)
        events.append(("begin", number))
        return Watched(number, run(step))

    monkeypatch.setattr(llm.model.executor, "run", watched)
    return events


def test_a_step_begins_before_the_tokens_of_the_last_are_read(llm, monkeypatch):
    events = watch(llm, monkeypatch)
    llm.generate([TEXT, TEXT + "!"], greedy(max_tokens=4), use_tqdm=False)
    expected = [("begin", 0)]
    for number in range(1, 4):
        expected += [("begin", number), ("read", number - 1)]
    assert events == [*expected, ("read", 3)]  # the end is known by length: no step in vain


@pytest.mark.parametrize(
    "params",
    [
        greedy(prompt_logprobs=1, max_tokens=1),
        SamplingParams(n=2, max_tokens=1),
        greedy(best_of=2, n=2, use_beam_search=True, max_tokens=1),
    ],
    ids=["prompt log-probabilities", "several samples", "beams"],
)
def test_a_step_that_decides_more_than_the_next_token_is_read_at_once(llm, monkeypatch, params):
    events = watch(llm, monkeypatch)
    llm.engine.submit("other", Prompt(None, [5, 6, 7]), greedy())
    llm.engine.step()
    llm.engine.submit("one", Prompt(None, list(range(2, 40))), params)
    llm.engine.step()
    assert not llm.engine._flight
    assert ("read", 1) in events


def mixed_params(source):
    """Parameters of all kinds whose tokens don't depend on a draw near a border."""
    kinds = [
        {},
        {"repetition_penalty": 1.3},
        {"presence_penalty": 0.7, "frequency_penalty": 0.4},
        {"logit_bias": {17: 3.0}, "min_tokens": 3, "stop_token_ids": list(range(0, 500, 9))},
        {"bad_words": ["the", " of"]},
        {"logprobs": 3},
        {"n": 2, "best_of": 3, "temperature": 0.7, "seed": 11},
        {"stop": ["e"], "min_tokens": 2},
        {"prompt_logprobs": 2},
        {"use_beam_search": True, "best_of": 2, "n": 1},
    ]
    return greedy(**{"max_tokens": source.randint(3, 20), **source.choice(kinds)})


@pytest.mark.parametrize("options", [{}, {"num_gpu_blocks_override": 16}, {"max_num_batched_tokens": 16}], ids=str)
def test_texts_are_those_of_an_executor_that_does_not_run_ahead(make_llm, options):
    """Also when blocks run out and requests are preempted while a token of theirs is unknown."""
    source = random.Random(3)
    requests = [
        (Prompt(None, source.choices(range(2, 500), k=source.randint(1, 60))), mixed_params(source)) for _ in range(24)
    ]
    found, expected = (run(make_llm(executor=executor, **options), requests) for executor in ("torch", "native"))
    assert found == expected


def run(llm, requests):
    """Submits the requests while others run, aborts every seventh; what each gets."""
    outputs = {}
    for number, (prompt, params) in enumerate(requests):
        llm.engine.submit(str(number), prompt, params)
        for output in llm.engine.step():
            outputs[output.request_id] = output
        if number % 7 == 6:
            llm.engine.abort(str(number))
    while llm.engine.has_work:
        for output in llm.engine.step():
            outputs[output.request_id] = output
    assert llm.engine.scheduler.block_usage == 0
    return [
        [(o.token_ids, o.text, o.finish_reason, o.stop_reason) for o in outputs[str(number)].outputs]
        for number in range(len(requests))
        if number % 7 != 6
    ]
