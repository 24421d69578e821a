"""The maxima that the logits' matmul leaves: those of every 64 logits, however it was cut, and draws from them."""

from functools import partial

import numpy as np
import pytest

from harness import Line, decoder, make_native, random_tensors, random_tokens, stored
from octavo import _native
from octavo.engine.steps import make_step
from octavo.request import StepPlan
from octavo.sampling.options import SamplerOptions

NAN, INFINITY = float("nan"), float("inf")


def result_of(vocab, rows, spoiled=None, dtype="bfloat16"):
    """A step of a prompt of so many tokens, all of whose logits are wanted."""
    graph = decoder(vocab=vocab, layers=1)
    tensors = random_tensors(graph, dtype)
    if spoiled is not None:
        place, value = spoiled
        weights = tensors["head.weight"].values().copy()
        weights[place] = value
        tensors["head.weight"] = stored("head.weight", weights)
    executor = make_native(graph, tensors, dtype)
    plan = StepPlan([Line(random_tokens(rows, vocab), range(40)).chunk(rows)])
    return executor, executor.run(make_step(plan, plan.logit_rows()[0]))


def maxima_of(logits):
    padded = np.pad(logits, ((0, 0), (0, -logits.shape[1] % 64)), constant_values=-np.inf)
    return padded.reshape(len(logits), -1, 64).max(axis=2)


@pytest.mark.parametrize("vocab", [20, 131, 640, 1000, 5003])
@pytest.mark.parametrize("rows", [1, 2, 17, 200])
def test_they_are_those_of_the_logits(isa, vocab, rows):
    executor, result = result_of(vocab, rows)
    maxima = executor.native.maxima(rows)
    assert maxima.shape == (rows, -(-vocab // 64))
    np.testing.assert_array_equal(maxima, maxima_of(result.logits))


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("rows", [1, 50])
def test_a_block_with_what_is_no_number_is_infinite_and_nothing_is_drawn(isa, value, rows):
    executor, result = result_of(1000, rows, spoiled=(333, value))
    assert not np.isfinite(result.logits[:, 333]).any()
    maxima = executor.native.maxima(rows)
    assert (maxima[:, 333 // 64] == INFINITY).all()
    assert np.isfinite(maxima[:, [0, 1, 2, 3, 8, -1]]).all(), "a tile has two blocks at most"
    sampler = _native.SequenceSampler(*SamplerOptions(vocab_size=1000, temperature=0.0).as_data(), 1)
    assert executor.native.sample([0], [sampler]).tokens[0] == -1


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "num_logprobs": 5},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"temperature": 0.8, "top_p": 0.7},
        {"temperature": 1.2, "min_p": 0.1, "num_logprobs": 0},
    ],
)
def test_draws_are_the_same_with_them_and_without(isa, options):
    executor, result = result_of(5003, 30)
    rows = list(range(30))
    data = SamplerOptions(vocab_size=5003, **options).as_data()
    drawn = [
        draw(rows, [_native.SequenceSampler(*data, seed) for seed in rows])
        for draw in (executor.native.sample, partial(_native.sample, result.logits))
    ]
    for name in ("tokens", "logprobs", "ranks"):
        np.testing.assert_array_equal(*(getattr(found, name) for found in drawn))
    for row in rows:
        for found, expected in zip(*(found.top(row) for found in drawn), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_rows_that_the_last_step_had_not_are_refused():
    executor, _ = result_of(131, 2)
    sampler = _native.SequenceSampler(*SamplerOptions(vocab_size=131).as_data(), 1)
    with pytest.raises(ValueError, match=r"row 2 is not in \[0, 2\)"):
        executor.native.sample([2], [sampler])
