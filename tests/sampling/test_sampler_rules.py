"""Rules that hold whatever the logits are: who influences whom, what is refused, what the draws look like."""

import numpy as np
import pytest

from octavo import _native
from octavo.errors import ParameterError
from octavo.executor.base import ALL_BANNED, UNUSABLE_LOGITS
from octavo.sampling.options import SamplerOptions, sampler_options, sequence_seed
from octavo.sampling.rules import apply_rules
from octavo.sampling.rules.base import RuleRequest
from octavo.sampling.rules.timestamps import Timestamps
from octavo.sampling.rules.tokens import AllowedTokens, BadWords, LogitBias, Penalties, SuppressedTokens
from octavo.sampling_params import SamplingParams
from reference_sampler import ReferenceSampler, log_softmax, uniform

SIZE = 2000
VARIETY = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.8, "top_p": 0.95, "top_k": 50},
    {"top_p": 0.9},
    {"min_p": 0.02, "rules": [Penalties(repetition=1.2, prompt_token_ids=[1, 2, 3])]},
    {"temperature": 1.5, "rules": [LogitBias([7], [5.0])], "num_logprobs": 4},
]


def logits_of(num_rows, size=SIZE, seed=0):
    return (np.random.default_rng(seed).standard_normal((num_rows, size)) * 2).astype(np.float32)


def options_of(size=SIZE, **given):
    return SamplerOptions(vocab_size=size, **given)


def sampler_of(size=SIZE, seed=0, **given):
    return _native.SequenceSampler(*options_of(size, **given).as_data(), seed)


def variety():
    return [sampler_of(seed=i, **keywords) for i, keywords in enumerate(VARIETY * 4)]


def draw(logits, *samplers, rows=None):
    return _native.sample(logits, rows or list(range(len(samplers))), list(samplers)).tokens.tolist()


def test_a_draw_does_not_depend_on_the_batch(isa):
    logits, samplers = logits_of(24), variety()
    together = draw(logits, *samplers)
    alone = [draw(logits, sampler, rows=[i])[0] for i, sampler in enumerate(samplers)]
    backwards = draw(logits, *samplers[::-1], rows=list(range(24))[::-1])
    assert together == alone == backwards[::-1]


def test_a_draw_does_not_depend_on_the_number_of_threads():
    logits, samplers, before = logits_of(24), variety(), _native.num_threads()
    tokens = []
    for threads in (1, 2, 3):
        _native.set_num_threads(threads)
        tokens.append(draw(logits, *samplers))
    _native.set_num_threads(before)
    assert tokens[0] == tokens[1] == tokens[2]


def test_the_logits_are_left_as_they_were(isa):
    logits = logits_of(24)
    before = logits.copy()
    draw(logits, *variety())
    np.testing.assert_array_equal(logits, before)


def test_several_samplers_may_read_one_row():
    logits = logits_of(1)
    samplers = variety()
    assert draw(logits, *samplers, rows=[0] * 24) == [draw(logits, sampler)[0] for sampler in samplers]


def test_rows_may_lie_apart():
    wide = logits_of(3, SIZE + 48)
    logits = wide[:, :SIZE]
    samplers = variety()[:3]
    assert draw(logits, *samplers) == draw(np.ascontiguousarray(logits), *samplers)
    with pytest.raises(ValueError, match="side by side"):
        draw(wide[:, ::2][:, :SIZE], sampler_of((SIZE + 48) // 2))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 777, SIZE - 1])
def test_a_row_with_nan_or_infinity_is_flagged_and_others_are_untouched(isa, poison, place):
    logits, samplers = logits_of(24), variety()
    expected = draw(logits, *samplers)
    for row in (1, 4, 5):
        logits[row, place] = poison
        expected[row] = -1
    assert draw(logits, *samplers) == expected
    scored = _native.top_logprobs(logits, 3, [5] * 24)
    assert [row for row in range(24) if scored.ids[row, 0] == -1] == [1, 4, 5]
    assert np.isnan(scored.chosen).nonzero()[0].tolist() == [1, 4, 5]


def test_a_row_where_nothing_is_possible_is_flagged_and_so_is_one_where_nothing_is_allowed(isa):
    logits = logits_of(2)
    logits[0] = -np.inf
    banned = sampler_of(rules=[AllowedTokens([4]), BadWords([[4]])])
    assert draw(logits, sampler_of(), banned) == [UNUSABLE_LOGITS, ALL_BANNED]


def test_draws_follow_the_distribution():
    """Chi-square over 20 tokens, of 4,000 draws at the positions of one seed, as in a request."""
    logits = (np.random.default_rng(3).standard_normal((1, 20)) * 1.5).astype(np.float32)
    for keywords in ({}, {"temperature": 0.7}, {"top_k": 10}, {"top_p": 0.8}, {"min_p": 0.1}):
        sampler, reference = sampler_of(20, seed=11, **keywords), ReferenceSampler(options_of(20, **keywords))
        counts = np.zeros(20)
        for _ in range(4000):
            counts[draw(logits, sampler)[0]] += 1
            sampler.accept(0)
        ids, weights = reference.candidates(logits[0])
        expected = 4000 * weights / weights.sum()
        assert counts[ids].sum() == 4000
        statistic = ((counts[ids] - expected) ** 2 / expected).sum()
        freedom = len(ids) - 1
        assert statistic < freedom + 4 * np.sqrt(2 * freedom)


def test_neighbouring_seeds_and_positions_are_independent_and_uniform():
    grid = np.array([[uniform(seed, position) for position in range(100)] for seed in range(100)])
    assert 0 < grid.min() < grid.max() <= 1
    assert np.unique(grid).size == grid.size
    assert abs(grid.mean() - 0.5) < 4 * np.sqrt(1 / 12 / grid.size)
    for a, b in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.04


def test_random_numbers_are_those_of_splitmix64():
    """Computed once with Python's integers."""
    expected = {
        (0, 0): 0.6524484863740323,
        (1, 1): 0.9435642308648545,
        (18446744073709551615, 77): 0.5489061346673022,
        (12345, 1048576): 0.2196495728614588,
    }
    assert {pair: uniform(*pair) for pair in expected} == expected


def test_sequences_of_one_request_share_no_history_and_have_streams_of_their_own():
    logits = np.zeros((1, SIZE), np.float32)
    given = options_of(rules=(AllowedTokens([9, 10, 11, 12]), BadWords([[5, 9]])))
    samplers = [_native.SequenceSampler(*given.as_data(), seed) for seed in range(60)]
    assert set(draw(logits, *samplers, rows=[0] * 60)) == {9, 10, 11, 12}
    for sampler in samplers[:30]:
        sampler.accept(5)
    assert [sampler.num_output for sampler in samplers] == [1] * 30 + [0] * 30
    tokens = draw(logits, *samplers, rows=[0] * 60)
    assert (set(tokens[:30]), set(tokens[30:])) == ({10, 11, 12}, {9, 10, 11, 12})


def test_penalties_count_what_was_generated():
    logits = np.zeros((1, 8), np.float32)
    logits[0, :3] = [3.0, 2.9, 2.5]
    greedy = sampler_of(8, temperature=0.0, rules=[Penalties(frequency=0.25)])
    taken = []
    for _ in range(6):
        taken += draw(logits, greedy)
        greedy.accept(taken[-1])
    assert taken == [0, 1, 0, 1, 0, 2]


def test_stop_tokens_are_banned_until_min_tokens():
    logits = np.zeros((1, 4), np.float32)
    logits[0, [1, 2]] = [9, 8]
    sampler = sampler_of(4, temperature=0.0, rules=[SuppressedTokens([1], 2)])
    taken = []
    for _ in range(3):
        taken += draw(logits, sampler)
        sampler.accept(taken[-1])
    assert taken == [2, 2, 1]


def test_logprobs_are_of_the_logits_before_adjustment():
    logits = logits_of(1)
    sampler = sampler_of(temperature=0.3, rules=[LogitBias([7], [100.0])], num_logprobs=2)
    result = _native.sample(logits, [0], [sampler])
    assert result.tokens[0] == 7
    assert result.logprobs[0] == pytest.approx(log_softmax(logits[0])[7], abs=1e-5)
    assert result.top(0)[0].tolist() == np.argsort(-logits[0])[:2].tolist()


def test_logprobs_are_of_the_distribution_that_is_drawn_from_where_that_is_asked():
    logits = logits_of(1)
    rules = [LogitBias([7], [3.0]), AllowedTokens([3, 7, 9])]
    given = options_of(temperature=0.3, adjusted_logprobs=True, num_logprobs=5, rules=rules)
    sampler = _native.SequenceSampler(*given.as_data(), 0)
    result = _native.sample(logits, [0], [sampler])
    reference = ReferenceSampler(given)
    expected, drawn = log_softmax(reference.adjusted(logits[0])), reference.sample(logits[0])
    assert result.logprobs[0] == pytest.approx(expected[result.tokens[0]], abs=1e-5)
    ids, logprobs = result.top(0)
    assert set(ids.tolist()) == {3, 7, 9}
    assert ids.tolist() == drawn.top_ids.tolist()
    assert logprobs == pytest.approx(drawn.top_logprobs, abs=1e-5)
    assert result.ranks[0] == 1 + ids.tolist().index(result.tokens[0])


def test_results_outlive_the_call_that_made_them():
    sampler = sampler_of(num_logprobs=5)
    tokens = _native.sample(logits_of(1), [0], [sampler]).tokens
    ids, _ = _native.sample(logits_of(1), [0], [sampler]).top(0)
    assert tokens.shape == (1,)
    assert len(set(ids.tolist())) == 5


def test_token_ids_outside_the_vocabulary_are_refused():
    for rule in (
        LogitBias([4], [1.0]),
        LogitBias([1], []),
        AllowedTokens([-1]),
        BadWords([[0, 4]]),
        BadWords([[]]),
        SuppressedTokens([4]),
        Penalties(prompt_token_ids=[4], repetition=1.1),
    ):
        with pytest.raises(ValueError, match=rf"^{rule.name}: .*(not in 0\.\.3|one value|empty)"):
            sampler_of(4, rules=[rule])
    with pytest.raises(ValueError, match="vocabulary"):
        sampler_of(4).accept(4)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vocab_size", [0, -1, 2**31, 2**63 - 1, -(2**63)]),
        ("temperature", [-1e-9, -np.inf, np.nan]),
        ("top_p", [0.0, -0.1, 1.1, np.inf, np.nan]),
        ("top_k", [-2, -(2**63), 2**63 - 1]),
        ("min_p", [-0.1, 1.1, np.nan]),
        ("num_logprobs", [-2, -(2**63), 2**63 - 1]),
        ("adjusted_logprobs", [-1, 2]),
        ("nothing of a sampler", [1]),
        ("penalties presence", [np.inf, np.nan, 1e308]),
        ("penalties frequency", [np.inf, -np.inf, np.nan]),
        ("penalties repetition", [0.0, -1.0, np.inf, np.nan]),
        ("suppressed_tokens min_tokens", [-1, -(2**63), 2**63 - 1]),
        ("suppressed_tokens token_ids", [[10], [-1], 3]),
        ("logit_bias values", [[np.nan], [np.inf], [1e308], []]),
        ("logit_bias token_ids", [[10], [-1], [2**31 - 1]]),
        ("allowed_tokens token_ids", [[10], [-(2**31)], [2**31], [2**63]]),
        ("bad_words words", [[[]], [[1], [10]], [1], 1]),
        ("timestamps begin", [0, -1, 10, 2**31 - 1, -(2**31)]),
        ("timestamps end_of_text", [6, -1, -(2**31)]),
        ("timestamps max_initial", [-1, -(2**31), 2**31]),
        ("timestamps nothing of it", [1]),
    ],
)
def test_every_number_out_of_range_is_refused(name, values):
    rules = (
        LogitBias([1], [1.0]),
        AllowedTokens([1]),
        BadWords([[1]]),
        SuppressedTokens([1]),
        Penalties(),
        Timestamps(5, 1, 1),
    )
    for value in values:
        options, given = options_of(10, rules=rules).as_data()
        assert _native.SequenceSampler(options, given, 0).num_output == 0
        owner, _, field = name.partition(" ")
        dict(given).get(owner, options)[field or owner] = value
        with pytest.raises((ValueError, TypeError)):  # a TypeError is one that no C++ type can hold
            _native.SequenceSampler(options, given, 0)


def test_what_is_missing_or_unknown_is_refused_by_name():
    options, rules = options_of(10, rules=[SuppressedTokens([1])]).as_data()
    with pytest.raises(ValueError, match="no rule on logits named nothing"):
        _native.SequenceSampler(options, [("nothing", {})], 0)
    del rules[0][1]["min_tokens"]
    with pytest.raises(ValueError, match="suppressed_tokens: min_tokens is missing"):
        _native.SequenceSampler(options, rules, 0)
    del options["top_p"]
    with pytest.raises(ValueError, match="top_p is missing"):
        _native.SequenceSampler(options, [], 0)


@pytest.mark.parametrize(
    "keywords",
    [
        {"rules": [Timestamps(200, 100, 2**31 - 1)]},
        {"rules": [Timestamps(200, 100, 0)]},
        {"rules": [Timestamps(1, 0, 2**31 - 1)]},
        {"rules": [Timestamps(299, 299, 5)]},
        {"top_k": 2**53},
        {"rules": [SuppressedTokens([1], 2**53)]},
        {"num_logprobs": 2**53},
        {"temperature": np.inf},
        {"rules": [LogitBias([1], [-3.4e38])]},
        {"rules": [Penalties(repetition=3e38, presence=3e38, frequency=-3e38)]},
    ],
    ids=str,
)
def test_every_number_at_the_end_of_its_range_draws_a_token_or_none(keywords):
    logits = logits_of(1, 300)
    sampler = sampler_of(300, **keywords)
    for token in (250, 260, 299, 3):
        drawn = int(_native.sample(logits, [0], [sampler]).tokens[0])
        assert -1 <= drawn < 300
        sampler.accept(token)


def test_rows_and_sizes_that_do_not_fit_are_refused():
    logits, sampler = logits_of(2), sampler_of()
    with pytest.raises(ValueError, match="row 2"):
        draw(logits, sampler, rows=[2])
    with pytest.raises(ValueError, match="None"):
        draw(logits, None)
    with pytest.raises(ValueError, match="differ in length"):
        draw(logits, sampler, rows=[0, 1])
    with pytest.raises(ValueError, match="vocabulary"):
        draw(logits, sampler_of(SIZE - 1))
    with pytest.raises(ValueError, match="token"):
        _native.top_logprobs(logits, 1, [0, SIZE])


def request_of(params, vocab_size=SIZE, **given):
    return RuleRequest(params=params, vocab_size=vocab_size, prompt_token_ids=[1], **given)


def test_a_request_becomes_samplers_with_streams_of_their_own():
    params = SamplingParams(seed=5, n=2, logit_bias={3: 1e300}, stop_token_ids=[2], min_tokens=1, logprobs=-1)
    options = sampler_options(request_of(params, end_ids=[0, 2]))
    samplers = [_native.SequenceSampler(*options.as_data(), sequence_seed(5, index)) for index in (0, 0, 1)]
    result = _native.sample(logits_of(1), [0, 0, 0], samplers)
    assert result.tokens.tolist() == [3, 3, 3]
    assert result.top(0)[0].size == SIZE
    assert (sequence_seed(5, 0), sequence_seed(5, 1), sequence_seed(-1, 0)) == (5, 6, 2**64 - 1)


@pytest.mark.parametrize("field", ["logit_bias", "allowed_token_ids", "stop_token_ids"])
def test_a_request_with_token_ids_outside_the_vocabulary_is_refused_by_name(field):
    params = SamplingParams(**{field: {SIZE: 1.0} if field == "logit_bias" else [SIZE]})
    with pytest.raises(ParameterError, match=field):
        sampler_options(request_of(params))


def test_rules_of_speech_ban_the_same_tokens_for_beams_as_for_samplers():
    suppressed = SuppressedTokens((3, 39)), SuppressedTokens((5, 35), 1)
    rules = (*suppressed, Timestamps(40, end_of_text=35, max_initial=5))
    logits = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    options = sampler_options(request_of(SamplingParams(temperature=0), 64), rules)
    for output in ([], [41], [41, 7], [41, 7, 44], [41, 7, 44, 44]):
        found = logits.copy()
        apply_rules(rules, found, output)
        reference = ReferenceSampler(options, output=list(output))
        assert ((reference.adjusted(logits) == -np.inf) == (found == -np.inf)).all()
    for output, banned in (([], {3, 39, 5, 35}), ([9], {3, 39})):
        found = logits.copy()
        apply_rules(suppressed, found, output)
        assert set(np.flatnonzero(found == -np.inf).tolist()) == banned


def test_rules_are_in_the_order_of_their_stages_whoever_asks_for_them():
    params = SamplingParams(presence_penalty=1, min_tokens=2, logit_bias={3: 1}, allowed_token_ids=[3, 4])
    rules = sampler_options(request_of(params, end_ids=[0]), [Timestamps(40, 35), SuppressedTokens([7])]).rules
    assert [type(rule) for rule in rules] == [
        *(LogitBias, AllowedTokens, SuppressedTokens, SuppressedTokens, Penalties, Timestamps)
    ]
    assert sampler_options(request_of(SamplingParams())).rules == ()
