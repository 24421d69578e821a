"""The native sampler against the plain reference, over generated logits and parameters.

Both order tokens by the same float32 logits, but sum probabilities in float32 and in float64. So one thing
may differ: a token may be on the other side of an edge (of top_p, min_p or the draw) within rounding of it.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo import _native
from octavo.sampling.masks import allowed_tokens, no_tokens
from octavo.sampling.options import SamplerOptions
from octavo.sampling.rules import known_rules
from octavo.sampling.rules.timestamps import Timestamps
from octavo.sampling.rules.tokens import AllowedTokens, BadWords, LogitBias, Penalties, SuppressedTokens
from reference_sampler import ReferenceSampler, falling, log_softmax, uniform

MARGIN = 1e-5  # relative error of a mass that is summed in float32
SIZES = [1, 2, 15, 16, 17, 63, 64, 65, 1000, 1024, 1025, 2500]

each_isa = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def rows(draw, sizes=SIZES):
    """Logits of many kinds: smooth, tied, peaked, huge, and partly impossible."""
    size = draw(st.sampled_from(sizes))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 1e-3, 1.0, 3.0, 30.0, 1e4, 1e38]))
    logits = (random.standard_normal(size).clip(-3, 3) * spread).astype(np.float32)
    if draw(st.booleans()):  # ties
        logits = np.round(logits)
    if draw(st.booleans()):
        logits[random.integers(0, size, 1 + size // 100)] += np.float32(12)
    if draw(st.booleans()):
        logits[random.random(size) < draw(st.sampled_from([0.1, 0.9, 1.0]))] = -np.inf
    return logits


def rules(size):
    """Rules of every kind but timestamps, each of them mostly off, in order."""
    tokens = st.integers(0, size - 1)
    ids = st.lists(tokens, max_size=3)
    kinds = [
        st.builds(
            lambda bias: LogitBias([*bias], [*bias.values()]),
            st.dictionaries(tokens, st.floats(-20, 20, width=32), min_size=1, max_size=5),
        ),
        st.builds(AllowedTokens, st.lists(tokens, min_size=1, max_size=20, unique=True)),
        st.builds(BadWords, st.lists(st.lists(tokens, min_size=1, max_size=3), min_size=1, max_size=4)),
        st.builds(SuppressedTokens, ids, st.integers(0, 8)),
        st.builds(
            Penalties,
            repetition=st.sampled_from([1.0, 1.0, 0.5, 1.1, 2.0]),
            frequency=st.just(0.0) | st.floats(-2, 2, width=32),
            presence=st.just(0.0) | st.floats(-2, 2, width=32),
            prompt_token_ids=st.lists(tokens, max_size=20),
        ),
    ]
    maybe = [st.one_of(st.none(), st.none(), kind) for kind in kinds]
    return st.tuples(*maybe).map(lambda found: tuple(rule for rule in found if rule is not None))


@st.composite
def options(draw, size):
    """Options of a sampler: each feature is mostly off."""

    def maybe(off, strategy):
        return draw(st.one_of(st.just(off), st.just(off), strategy))

    return SamplerOptions(
        vocab_size=size,
        temperature=draw(st.sampled_from([0.0, 1e-6, 0.01, 0.3, 0.8, 1.0, 1.0, 2.0, 100.0, 1e30])),
        top_p=maybe(1.0, st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.95, 0.999])),
        top_k=maybe(0, st.sampled_from([-1, 1, 2, 5, 50, 1000, 10**6])),
        min_p=maybe(0.0, st.sampled_from([1e-6, 0.05, 0.5, 1.0])),
        num_logprobs=draw(st.sampled_from([0, 1, 5, 20, size])),
        rules=draw(rules(size)),
    )


def sampler_of(size, seed=0, **given):
    """A native sampler with these options."""
    return _native.SequenceSampler(*SamplerOptions(vocab_size=size, **given).as_data(), seed)


def pair(options, seed=0, output=()):
    """The native sampler and the reference, after the same output."""
    native, reference = _native.SequenceSampler(*options.as_data(), seed), ReferenceSampler(options, seed)
    for token in output:
        native.accept(token)
        reference.accept(token)
    return native, reference


def assert_close(logprobs, expected):
    with np.errstate(over="ignore"):  # float32 ends where the sum of two huge logits lies
        np.testing.assert_allclose(logprobs, np.float32(expected), rtol=1e-5, atol=1e-5)


def possible_tokens(reference, logits):
    """The tokens that a draw may give when every edge is moved by MARGIN either way."""
    adjusted = reference.adjusted(logits)
    exact = reference.options
    if exact.temperature < 1e-5:
        return {reference.draw(adjusted)}
    u, found = uniform(reference.seed, len(reference.output)), set()
    for move in (-MARGIN, 0, MARGIN):
        top_p = exact.top_p if exact.top_p == 1 else min(exact.top_p * (1 + move), 1 - 1e-9)
        min_p = exact.min_p * (1 + (move if exact.min_p < 1 else 0))
        reference.options = replace(exact, top_p=top_p, min_p=min_p)
        ids, weights = reference.candidates(adjusted)
        cumulative = np.cumsum(weights)
        first, last = np.searchsorted(cumulative, cumulative[-1] * np.clip([u - MARGIN, u + MARGIN], 0, 1))
        near = slice(first, last + 1)
        found |= set(ids[near][weights[near] > 0].tolist())
    reference.options = exact
    return found


@each_isa
@given(data=st.data())
def test_a_mask_comes_before_the_rules(isa, data):
    logits = data.draw(rows())
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    allowed = random.random(logits.size) < data.draw(st.sampled_from([0, 0.001, 0.5, 1]))
    allowed[data.draw(st.integers(0, logits.size - 1))] = True
    given, seed = data.draw(options(logits.size)), data.draw(st.integers(0, 2**64 - 1))
    native, reference = pair(replace(given, temperature=0.0), seed, [])
    masks = no_tokens(3, logits.size)
    masks[1] = bits_of(allowed)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.sample(logits, allowed)
    found = _native.sample(logits[None], [0], [native], masks, [1])
    assert found.tokens[0] == expected.token
    assert _native.sample(logits[None], [0], [native], masks, [0]).tokens[0] < 0
    unmasked = _native.sample(logits[None], [0], [native], masks, [-1]).tokens[0]
    assert unmasked == _native.sample(logits[None], [0], [native]).tokens[0]


def bits_of(allowed):
    """The words of a mask of bools, the other way round than `allowed_tokens`."""
    padded = np.zeros(-(-len(allowed) // 32) * 32, bool)
    padded[: len(allowed)] = allowed
    words = np.packbits(padded, bitorder="little").view(np.uint32)
    assert (allowed_tokens(words, len(allowed)) == allowed).all()
    return words


@pytest.mark.parametrize(
    ("masks", "mask_rows", "reason"),
    [
        (no_tokens(1, 64), [0, 0], "differ in length"),
        (no_tokens(1, 32), [0], "a bit for each token"),
        (no_tokens(1, 96), [0], "a bit for each token"),
        (no_tokens(1, 64), [1], r"not in \[-1, 1\)"),
        (no_tokens(1, 64), [-2], r"not in \[-1, 1\)"),
        (None, [0], "a bit for each token"),
    ],
)
def test_masks_are_checked(masks, mask_rows, reason):
    native, _ = pair(SamplerOptions(vocab_size=64), 0, [])
    with pytest.raises(ValueError, match=reason):
        _native.sample(np.zeros((1, 64), np.float32), [0], [native], masks, mask_rows)


@each_isa
@given(data=st.data())
def test_a_token_is_the_one_that_the_reference_draws(isa, data):
    logits = data.draw(rows())
    given, seed = data.draw(options(logits.size)), data.draw(st.integers(0, 2**64 - 1))
    output = data.draw(st.lists(st.integers(0, logits.size - 1), max_size=10))
    native, reference = pair(given, seed, output)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.sample(logits)
    result = _native.sample(logits[None], [0], [native])
    token = int(result.tokens[0])
    if expected.token < 0:
        assert token == expected.token
        return
    assert token == expected.token or token in possible_tokens(reference, logits)
    logprobs = log_softmax(logits)
    assert_close(result.logprobs[0], logprobs[token])
    assert result.ranks[0] == 1 + (logits > logits[token]).sum()
    ids, top = result.top(0)
    np.testing.assert_array_equal(ids, expected.top_ids)
    assert_close(top, expected.top_logprobs)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"top_k": 50, "top_p": 0.95, "temperature": 0.8},
        {"top_k": 3000},
        {"top_p": 0.3},
        {"top_p": 0.95},
        {"top_p": 0.999, "min_p": 1e-4},
        {"min_p": 0.05},
    ],
)
def test_a_whole_vocabulary_is_sampled_as_the_reference_does(isa, spread, keywords):
    size = 49152
    logits = (np.random.default_rng(0).standard_normal(size) * spread).astype(np.float32)
    for seed in range(12):
        native, reference = pair(SamplerOptions(vocab_size=size, **keywords), seed)
        token = int(_native.sample(logits[None], [0], [native]).tokens[0])
        assert token == reference.sample(logits).token or token in possible_tokens(reference, logits)


def test_equal_logits_are_cut_by_token_id(isa):
    logits = np.zeros((1, 3000), np.float32)
    for keywords, kept in [({"top_k": 7}, 7), ({"top_p": 0.01}, 30), ({"temperature": 0.0}, 1)]:
        samplers = [sampler_of(3000, seed, **keywords) for seed in range(300)]
        tokens = set(_native.sample(logits, [0] * 300, samplers).tokens.tolist())
        assert tokens == set(range(kept))


def test_a_masked_token_is_never_drawn(isa):
    logits = np.full((1, 5000), -np.inf, np.float32)
    logits[0, [3, 2047, 4100]] = [1.0, 1.5, 1.0]
    samplers = [sampler_of(5000, seed) for seed in range(500)]
    assert set(_native.sample(logits, [0] * 500, samplers).tokens.tolist()) == {3, 2047, 4100}


@each_isa
@given(logits=rows(), data=st.data())
def test_top_logprobs_are_those_of_a_sort(isa, logits, data):
    k = data.draw(st.integers(0, logits.size + 2))
    token = data.draw(st.integers(0, logits.size - 1))
    result = _native.top_logprobs(logits[None], k, [token])
    assert result.ids.shape == (1, min(k, logits.size))
    if (logits == -np.inf).all():
        assert (result.ids == -1).all()
        assert result.ranks[0] == 0
        return
    expected = falling(logits)[:k]
    count = expected.size
    np.testing.assert_array_equal(result.ids[0, :count], expected)
    assert (result.ids[0, count:] == -1).all()
    logprobs = log_softmax(logits)
    assert_close(result.logprobs[0, :count], logprobs[expected])
    assert_close(result.chosen[0], logprobs[token])
    assert result.ranks[0] == 1 + (logits > logits[token]).sum()


TIMES = Timestamps(begin=40, end_of_text=35, max_initial=5)
HISTORIES = [
    [],
    [40],
    [7],
    [42, 3],
    [42, 3, 47],
    [42, 3, 47, 47],
    [42, 3, 47, 47, 9, 11],
    [42, 3, 47, 49, 9],
    [63],
    [63, 1, 63],
]


@pytest.mark.parametrize("output", HISTORIES)
@pytest.mark.parametrize("shift", [-20.0, 0.0, 2.0])
def test_timestamps_follow_their_rules(isa, output, shift):
    logits = np.random.default_rng(len(output)).standard_normal(64).astype(np.float32)
    logits[40:] += shift
    given = SamplerOptions(vocab_size=64, temperature=0.0, num_logprobs=0, rules=[TIMES])
    native, reference = pair(given, output=output)
    banned = reference.adjusted(logits) == -np.inf
    for _ in range((~banned).sum()):  # all that is possible, likeliest first, until it ends
        found = _native.sample(logits[None], [0], [native])
        expected = reference.sample(logits)
        assert found.tokens[0] == expected.token
        if expected.token < 0:
            break
        logits[expected.token] = -np.inf


def test_what_the_rules_of_timestamps_mean():
    def possible(output, likely=()):
        logits = np.zeros(64, np.float32)
        logits[40:] = -20.0
        logits[list(likely)] = 30.0
        TIMES.apply(logits, output)
        return set(np.flatnonzero(logits > -np.inf).tolist())

    text, special, times = set(range(35)), set(range(35, 40)), set(range(40, 64))
    assert possible([]) == set(range(40, 46)), "a text begins with an early time"
    assert possible([42]) == text | special, "a segment begins with text"
    assert possible([42, 3]) == text | special | set(range(43, 64)), "no segment is empty"
    assert possible([42, 3, 47]) == special | set(range(47, 64)), (
        "a segment that ended is followed by a time or the end"
    )
    assert possible([42, 3, 47, 50]) == text | special
    assert possible([42, 3], likely=[44]) == set(range(43, 64)), "a likely time keeps text out"
    assert times >= possible([42, 3], likely=[44])


def test_every_rule_has_a_native_form_and_keeps_the_order_of_stages():
    examples = {
        LogitBias: LogitBias([1], [1.0]),
        AllowedTokens: AllowedTokens([1]),
        BadWords: BadWords([[1]]),
        SuppressedTokens: SuppressedTokens([1]),
        Penalties: Penalties(presence=1.0),
        Timestamps: TIMES,
    }
    assert {rule for rule in known_rules() if rule.is_native} == set(examples)
    stages = [rule.stage for rule in known_rules()]
    assert stages == sorted(stages)
    for example in examples.values():
        assert sampler_of(64, rules=[example]).num_output == 0
