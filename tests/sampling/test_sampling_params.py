"""What SamplingParams accepts and refuses."""

import math
from dataclasses import fields

import numpy as np
import pytest

from octavo.errors import ParameterError
from octavo.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams

NAN, INF = math.nan, math.inf
NOT_NUMBERS = ["1", None, True, [1], NAN, INF, -INF, 10**400]
NOT_INTEGERS = ["1", True, 1.0, 1.5, NAN, [1], 10**400]

NUMBERS = {  # field: accepted, refused
    "presence_penalty": ([-2, 0.0, 2], [-2.01, 2.01]),
    "frequency_penalty": ([-2, 0.0, 2], [-2.01, 2.01]),
    "repetition_penalty": ([0.01, 1, 1.3, 100], [0, -1.0, 0.009, 101]),
    "temperature": ([0, 1e-6, 0.7, 2.5, np.float32(0.5)], [-1e-9, -1]),
    "top_p": ([1e-9, 0.5, 1], [0, -0.1, 1.0001]),
    "min_p": ([0, 0.5, 1], [-0.1, 1.0001]),
}
INTEGERS = {
    "n": ([1, 128, np.int64(2)], [0, -1, 129, 10**9]),
    "best_of": ([None, 1, 128], [0, 129]),
    "top_k": ([-1, 0, 1, 10**6], [-2]),
    "seed": ([None, 0, -5, 2**64 - 1], [2**64, -(2**63) - 1]),
    "max_tokens": ([None, 1, 10**6], [0, -1]),
    "min_tokens": ([0, 16], [-1, 17]),
    "logprobs": ([None, -1, 0, 20], [-2]),
    "prompt_logprobs": ([None, -1, 0, 20], [-2]),
    "truncate_prompt_tokens": ([None, -1, 1, 10**6], [-2, 0]),
}
LISTS = {
    "stop": ([None, [], "x", ["a", "b"], ("a",)], ["", [""], 3, [3], ["x"] * 65, ["x" * 1025], {"a": 1}]),
    "bad_words": ([None, [], ["a"]], ["word", [""], [1], ["x"] * 1025]),
    "stop_token_ids": ([None, [], [0, 7]], [7, ["7"], [-1], [True], [1.0], [2**31], [[1]], "7"]),
    "allowed_token_ids": ([None, [0], [3, 1]], [[], [-1], ["a"], 3]),
    "logits_processors": ([None, [], [print]], ["text", [5], {"a": 1}, [print] * 65]),
    "logit_bias": (
        [None, {}, {5: -100}, {0: 1e9}],
        [{-1: 0}, {"5": 0}, {5: NAN}, {5: INF}, {5: "x"}, {5: None}, {True: 1.0}, [5]],
    ),
}
CHOICES = {
    "output_kind": (list(RequestOutputKind), [0, "DELTA", None]),
    "early_stopping": ([False], ["always", 1, 0, None, True, "never"]),
    "length_penalty": ([1.0], [0.5, NAN, "1", True]),
}
FLAGS = [field.name for field in fields(SamplingParams) if field.type == "bool"]
RANGES = NUMBERS | INTEGERS | LISTS | CHOICES


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (good, _) in RANGES.items() for value in good])
def test_a_value_in_range_is_accepted(name, value):
    SamplingParams(**{name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, bad) in RANGES.items() for value in bad])
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ParameterError) as error:
        SamplingParams(**{name: value})
    assert name in error.value.name
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in NUMBERS for value in NOT_NUMBERS]
    + [(name, value) for name in INTEGERS for value in NOT_INTEGERS]
    + [(name, value) for name in FLAGS for value in (1, 0, None, "true", NAN)],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(ParameterError) as error:
        SamplingParams(**{name: value})
    assert error.value.name == name


def test_every_field_is_in_a_table_of_this_file():
    elsewhere = {"guided_decoding", "structured_outputs", "extra_args"}
    assert {field.name for field in fields(SamplingParams)} == {*RANGES, *FLAGS} | elsewhere


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="max_token"):
        SamplingParams(max_token=3)
    params = SamplingParams()
    with pytest.raises(AttributeError):
        params.max_token = 3


def test_the_defaults_are_those_of_vllm():
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k, params.min_p) == (1, 1.0, 1.0, 0, 0.0)
    assert (params.max_tokens, params.min_tokens, params.logprobs, params.seed) == (16, 0, None, None)
    assert (params.stop, params.stop_token_ids, params.bad_words) == ([], [], [])
    assert params.output_kind is RequestOutputKind.CUMULATIVE
    assert params.detokenize
    assert params.skip_special_tokens
    assert params.spaces_between_special_tokens


def test_a_greedy_request_has_one_sequence():
    SamplingParams(temperature=0, best_of=1)
    for several in ({"n": 2}, {"best_of": 2}):
        with pytest.raises(ParameterError, match="must be 1 for greedy"):
            SamplingParams(temperature=1e-6, **several)


def test_best_of_is_at_least_n():
    assert SamplingParams(n=2, best_of=3).num_sequences == 3
    with pytest.raises(ParameterError, match="at least n=3"):
        SamplingParams(n=3, best_of=2)


def test_stop_strings_need_text():
    with pytest.raises(ParameterError, match="detokenize"):
        SamplingParams(stop="x", detokenize=False)


def test_a_beam_is_greedy_unfiltered_and_at_least_two_wide():
    beam = SamplingParams(use_beam_search=True, best_of=4, temperature=0, early_stopping="never", length_penalty=0.5)
    assert beam.num_sequences == 4
    for change in ({"temperature": 1}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"best_of": None}):
        with pytest.raises(ParameterError, match=next(iter(change))):
            SamplingParams(**{"use_beam_search": True, "best_of": 4, "temperature": 0} | change)


def test_a_clone_is_independent_and_checked_again():
    params = SamplingParams(stop=["a"], logit_bias={1: 2.0}, seed=3)
    copy = params.clone()
    assert copy == params
    copy.stop.append("b")
    copy.logit_bias[2] = 1.0
    assert params.stop == ["a"]
    assert params.logit_bias == {1: 2.0}
    params.temperature = NAN
    with pytest.raises(ParameterError, match="temperature"):
        params.clone()


def test_from_optional_takes_none_for_defaults_and_parses_bias():
    params = SamplingParams.from_optional(n=None, temperature=None, top_k=None, logit_bias={"7": 400, "8": -3})
    assert (params.n, params.temperature, params.top_k, params.logit_bias) == (1, 1.0, 0, {7: 100.0, 8: -3.0})
    assert params.max_tokens == 16
    assert SamplingParams.from_optional(max_tokens=None).max_tokens is None
    for bias in ({"x": 1}, {"-1": 1}, {"1": "x"}, {"1": NAN}):
        with pytest.raises(ParameterError, match="logit_bias"):
            SamplingParams.from_optional(logit_bias=bias)


def test_a_seed_of_minus_one_is_none():
    assert SamplingParams(seed=-1).seed is None


@pytest.mark.parametrize("change", [{"beam_width": 0}, {"beam_width": True}, {"max_tokens": 0}, {"temperature": -1}])
def test_beam_search_params_are_checked(change):
    BeamSearchParams(beam_width=4, max_tokens=8).clone()
    with pytest.raises(ParameterError, match=next(iter(change))):
        BeamSearchParams(**{"beam_width": 4, "max_tokens": 8} | change)
