"""Draws on the device beside the reference sampler: by plain PyTorch, and by the Triton kernel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.executor.base import ALL_BANNED, UNUSABLE_LOGITS
from octavo.executor.torch import ops
from octavo.executor.torch.sampling import DrawRow, draw
from octavo.sampling.options import SamplerOptions
from octavo.sampling.rules.timestamps import Timestamps
from octavo.sampling.rules.tokens import AllowedTokens, BadWords, LogitBias, Penalties, SuppressedTokens
from reference_sampler import ReferenceSampler, uniform

MARGIN = 1e-6  # how near to a border of the cumulative distribution a draw may take the neighbour
PROMPT, OUTPUT = [3, 1, 4, 1], [2, 0, 3, 3, 1]


TRITON = pytest.param("cuda", marks=pytest.mark.gpu) if torch.cuda.is_available() else "interpreted"


@pytest.fixture(params=["plain", TRITON])
def target(request):
    """The functions that draw, and the device they draw on."""
    if request.param == "plain":
        return ops, torch.device("cpu")
    from octavo.executor.torch import kernels

    return kernels, torch.device("cuda" if request.param == "cuda" else "cpu")


def sample(target, logits, samplers, output=OUTPUT, prompt=PROMPT, masks=None, mask_rows=None):
    """Draws from row i of `logits` with (options, seed) i, masked by row mask_rows[i]; all have the same tokens."""
    module, device = target
    history = torch.zeros(2, 20, dtype=torch.int32)
    history[1, : len(prompt + output)] = torch.tensor(prompt + output)
    mask_rows = mask_rows or [-1] * len(samplers)
    lengths = len(prompt), len(prompt + output)
    rows = [DrawRow(*sampler, i, 1, *lengths, mask_rows[i]) for i, sampler in enumerate(samplers)]
    given = torch.tensor(np.stack(logits), device=device)
    before = given.clone()
    drawn = draw(given, rows, history.to(device), module, masks)
    assert torch.equal(given.nan_to_num(7), before.nan_to_num(7))
    return drawn


def reference(options, seed, output=OUTPUT):
    return ReferenceSampler(options, seed, output)


def assert_possible(token, logits, options, seed, output=OUTPUT):
    """Whether the reference draws `token` for the sequence's random number, or for one within MARGIN of it."""
    sampler = reference(options, seed, output)
    adjusted = sampler.adjusted(logits)
    if not np.isfinite(adjusted).any():
        assert token == (ALL_BANNED if np.isfinite(logits).any() else UNUSABLE_LOGITS)
        return
    if options.temperature < 1e-5:
        assert token == adjusted.argmax()
        return
    ids, weights = sampler.candidates(adjusted)
    cumulative = np.cumsum(weights) / weights.sum()
    assert token in ids
    place = list(ids).index(token)
    below = cumulative[place - 1] if place else 0.0
    number = uniform(seed, len(output))
    assert below - MARGIN <= number <= cumulative[place] + MARGIN


def options_of(vocab, **options):
    return SamplerOptions(vocab_size=vocab, **options)


def penalties(repetition, frequency, presence):
    return Penalties(repetition=repetition, frequency=frequency, presence=presence, prompt_token_ids=PROMPT)


VARIETY = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "cold": {"temperature": 0.05},
    "hot": {"temperature": 30.0},
    "top_k 1": {"top_k": 1},
    "top_k": {"top_k": 3, "temperature": 2.0},
    "top_k of all": {"top_k": 5000, "top_p": 0.9},
    "top_p": {"top_p": 0.6},
    "tiny top_p": {"top_p": 1e-9},
    "min_p": {"min_p": 0.2},
    "min_p of 1": {"min_p": 1.0},
    "everything": {"temperature": 1.5, "top_k": 4, "top_p": 0.8, "min_p": 0.01},
    "penalties": {"rules": [penalties(1.7, 0.5, 0.9)]},
    "rewards": {"rules": [penalties(0.5, -1.5, -0.5)], "top_p": 0.5},
    "bias": {"rules": [LogitBias([2, 4], [5.0, -3.0])]},
    "allowed": {"rules": [AllowedTokens([0, 4])], "top_k": 3},
    "bad words": {"rules": [BadWords([[3, 1, 0], [3, 3, 1, 2], [1, 4], [4]])], "top_p": 0.9},
    "words longer than the output": {"rules": [BadWords([[*PROMPT, *OUTPUT, 4], [1, *OUTPUT, 3], [*OUTPUT, 0]])]},
    "too early to end": {"rules": [SuppressedTokens([0, 1, 2], 6)]},
    "late enough to end": {"rules": [SuppressedTokens([0, 1, 2], 5)]},
    "several of a kind": {"rules": [SuppressedTokens([0]), SuppressedTokens([1, 3]), SuppressedTokens((), 6)]},
    "rules of every kind": {
        "rules": [LogitBias([3], [9.0]), AllowedTokens([0, 1, 3]), BadWords([[1, 0]]), penalties(1.2, 0.1, 0.2)]
    },
}


@pytest.mark.parametrize("vocab", [5, 127, 1000])
@pytest.mark.parametrize("name", VARIETY)
def test_draws_are_the_reference_s(target, name, vocab):
    rng = np.random.default_rng(vocab)
    logits = [(rng.standard_normal(vocab) * 3).astype(np.float32) for _ in range(6)]
    logits[1] = np.round(logits[1])  # ties
    logits[2][rng.random(vocab) < 0.5] = -np.inf
    logits[2][:1] = logits[2][4:5] = 0.0
    logits[3][:] = -1.5
    logits[4][: vocab // 2] += 60
    options = options_of(vocab, **VARIETY[name])
    drawn = sample(target, logits, [(options, seed) for seed in range(6)])
    for seed, token in enumerate(drawn.tokens.tolist()):
        assert_possible(token, logits[seed], options, seed)


def test_a_mixed_batch_gives_each_row_what_it_gets_alone(target):
    rng = np.random.default_rng(0)
    logits = [rng.standard_normal(300).astype(np.float32) for _ in VARIETY]
    samplers = [(options_of(300, **options), 7) for options in VARIETY.values()]
    together = sample(target, logits, samplers).tokens.tolist()
    assert together == [sample(target, [row], [one]).tokens[0] for row, one in zip(logits, samplers, strict=True)]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_parameters_draw_as_the_reference_does(data):
    vocab = data.draw(st.sampled_from([5, 64, 301]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = (rng.standard_normal(vocab) * data.draw(st.floats(0.01, 20))).astype(np.float32)
    ids = st.lists(st.integers(0, vocab - 1), max_size=4, unique=True)
    options = options_of(
        vocab,
        temperature=data.draw(st.floats(0.01, 5)),
        top_k=data.draw(st.integers(0, vocab + 1)),
        top_p=data.draw(st.floats(0.01, 1)),
        min_p=data.draw(st.floats(0, 0.9)),
        rules=[
            SuppressedTokens(data.draw(ids), data.draw(st.integers(0, 9))),
            penalties(*(data.draw(numbers) for numbers in (st.floats(0.5, 2), st.floats(-2, 2), st.floats(-2, 2)))),
        ],
    )
    seed = data.draw(st.integers(0, 2**64 - 1))
    (token,) = sample((ops, torch.device("cpu")), [logits], [(options, seed)]).tokens.tolist()
    assert_possible(token, logits, options, seed)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {}, {"top_p": 0.5}, {"rules": [Penalties(frequency=1.0)]}], ids=str
)
def test_a_row_without_a_possible_token_fails_and_no_other_does(target, options):
    good = np.linspace(-1, 1, 40).astype(np.float32)
    rows = [good.copy() for _ in range(4)]
    rows[0][7], rows[1][7], rows[2][:] = np.nan, np.inf, -np.inf
    drawn = sample(target, rows, [(options_of(40, **options, num_logprobs=2), 3)] * 4)
    assert drawn.tokens[:3].tolist() == [-1, -1, -1]
    assert_possible(int(drawn.tokens[3]), good, options_of(40, **options), 3)
    assert drawn.top(0)[0].size == 0
    assert np.isnan(drawn.logprobs[:3]).all()


def test_nan_is_noticed_even_where_a_ban_hides_it(target):
    logits = np.zeros(40, np.float32)
    logits[7] = np.nan
    options = options_of(40, rules=[AllowedTokens([1, 2])])
    assert sample(target, [logits], [(options, 1)]).tokens.tolist() == [-1]


def test_many_seeds_follow_the_distribution(target):
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    if target[0] is not ops and target[1].type == "cpu":
        pytest.skip("the interpreter is slow, and the kernel's draws are compared one by one")
    for options, expected in (({}, [0.5, 0.3, 0.15, 0.05]), ({"top_k": 2}, [0.625, 0.375, 0, 0])):
        samplers = [(options_of(4, **options), seed) for seed in range(2000)]
        tokens = sample(target, [logits] * 2000, samplers, [], []).tokens
        np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 2000, expected, atol=0.035)


def test_a_mask_comes_before_the_rules(target):
    rng = np.random.default_rng(6)
    logits = [rng.standard_normal(200).astype(np.float32) for _ in range(3)]
    allowed = rng.random((2, 200)) < 0.1
    masks = np.packbits(np.pad(allowed, ((0, 0), (0, 24))), axis=1, bitorder="little").view(np.uint32)
    samplers = [(options_of(200, rules=[LogitBias([9, 10], [50.0, 60.0])], temperature=0.0), 1)] * 3
    drawn = sample(target, logits, samplers, masks=masks, mask_rows=[1, -1, 0])
    for token, row, mask in zip(drawn.tokens, logits, [allowed[1], None, allowed[0]], strict=True):
        assert token == reference(samplers[0][0], 1).sample(row, mask).token


def test_logprobs_and_ranks_are_of_the_logits_before_adjustment(target):
    rng = np.random.default_rng(5)
    logits = [rng.standard_normal(200).astype(np.float32) for _ in range(4)]
    counts = [3, -1, 0, 200]
    samplers = [(options_of(200, rules=[LogitBias([9], [50.0])], num_logprobs=count), 1) for count in counts]
    drawn = sample(target, logits, samplers)
    assert drawn.tokens.tolist() == [9] * 4
    for i, count in enumerate(counts):
        expected = reference(samplers[i][0], 1).sample(logits[i])
        if count < 0:
            assert math.isnan(drawn.logprobs[i])
            assert drawn.ranks[i] == 0
            continue
        assert (drawn.logprobs[i], drawn.ranks[i]) == (pytest.approx(expected.logprob, abs=1e-5), expected.rank)
        ids, logprobs = drawn.top(i)
        assert ids.tolist() == expected.top_ids.tolist()
        np.testing.assert_allclose(logprobs, expected.top_logprobs, atol=1e-5)


def test_a_penalty_counts_a_token_that_only_the_device_knows(target):
    """The history is read from the table when the draw runs, not from the host's sequence."""
    logits = np.array([0.0, 1.0, 0.9, 0.0, 0.0], np.float32)
    options = options_of(5, temperature=0.0, rules=[Penalties(presence=0.5)])
    assert sample(target, [logits], [(options, 1)], output=[0]).tokens[0] == 1
    assert sample(target, [logits], [(options, 1)], output=[1]).tokens[0] == 2


TIMES = Timestamps(begin=40, end_of_text=35, max_initial=5)


@pytest.mark.parametrize("output", [[], [40], [7], [42, 3], [42, 3, 47], [42, 3, 47, 47], [63, 1, 63]])
def test_timestamps_follow_their_rules(target, output):
    """Beside a draw that has none, and with times in the prompt, which do not count."""
    rng = np.random.default_rng(0)
    logits = [rng.standard_normal(64).astype(np.float32) for _ in range(4)]
    logits[1][40:] += 3
    logits[2][40:] -= 20
    timed = SamplerOptions(vocab_size=64, temperature=0.0, rules=[TIMES])
    plain = SamplerOptions(vocab_size=64, temperature=0.0)
    options = [timed, timed, timed, plain]
    prompt = [39, 55, 60]
    drawn = sample(target, logits, [(one, 0) for one in options], output, prompt)
    for i, one in enumerate(options):
        assert drawn.tokens[i] == reference(one, 0, output).draw(reference(one, 0, output).adjusted(logits[i]))
