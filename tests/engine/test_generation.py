"""Every sampling parameter through the whole engine, on a tiny random model, beside transformers' logits."""

from itertools import pairwise

import numpy as np
import pytest

from checkpoints import reference_tokens, transformers_logits
from octavo import SamplingParams
from octavo.sampling.options import sampler_options
from octavo.sampling.rules.base import RuleRequest
from reference_sampler import ReferenceSampler, log_softmax

TEXT = "And so, my fellow Americans: ask not"
VOCAB = 500
END = 1  # <|end|>


@pytest.fixture
def complete(llm):
    """The completions of TEXT, or of another prompt, under the given parameters."""

    def run(prompt=TEXT, **params):
        params = {"temperature": 0, "max_tokens": 24, **params}
        return llm.generate(prompt, SamplingParams(**params), use_tqdm=False)[0].outputs

    return run


@pytest.fixture
def prompt_ids(llm):
    return llm.model.tokenizer.encode(TEXT)


def chosen(completion):
    return [entry[token] for entry, token in zip(completion.logprobs, completion.token_ids, strict=True)]


# Stopping


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_that_crosses_tokens_cuts_the_text_exactly(llm, complete, include):
    (whole,) = complete()
    pieces = [llm.model.tokenizer.token(token) for token in whole.token_ids]
    place = next(i for i in range(6, 20) if len(pieces[i]) > 1 and pieces[i + 1].isascii() and pieces[i].isascii())
    stop = pieces[place][-1] + pieces[place + 1][:1]
    (cut,) = complete(stop=["never seen", stop], include_stop_str_in_output=include)
    begin = whole.text.index(stop)
    assert cut.text == whole.text[: begin + len(stop) * include]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    assert whole.token_ids[: len(cut.token_ids)] == cut.token_ids


def test_a_stop_string_is_not_looked_for_in_the_prompt(complete):
    assert complete(stop="fellow")[0].finish_reason == "length"


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_token_ends_the_text_and_is_shown_on_demand(llm, complete, include):
    (whole,) = complete()
    token = whole.token_ids[5]
    end = whole.token_ids.index(token) + 1
    (cut,) = complete(stop_token_ids=[token], include_stop_str_in_output=include)
    assert (cut.finish_reason, cut.stop_reason) == ("stop", token)
    assert cut.token_ids == whole.token_ids[:end]
    shown = end if include else end - 1
    assert cut.text == llm.model.tokenizer.decode(whole.token_ids[:shown])


def test_the_end_token_ends_the_text_unless_ignored(complete):
    (ended,) = complete(logit_bias={END: 1e6})
    assert (ended.token_ids, ended.text, ended.finish_reason, ended.stop_reason) == ([END], "", "stop", None)
    (ignored,) = complete(logit_bias={END: 1e6}, ignore_eos=True, max_tokens=3)
    assert (ignored.token_ids, ignored.finish_reason) == ([END] * 3, "length")
    (wanted,) = complete(logit_bias={END: 1e6}, ignore_eos=True, stop_token_ids=[END])
    assert (wanted.token_ids, wanted.stop_reason) == ([END], END)


def test_before_min_tokens_nothing_ends_the_text(complete):
    (whole,) = complete()
    assert complete(logit_bias={END: 1e6}, min_tokens=4)[0].token_ids[4:] == [END]
    (cut,) = complete(stop_token_ids=[7], logit_bias={7: 1e6}, min_tokens=4)
    assert (7 in cut.token_ids[:4], cut.token_ids[4:]) == (False, [7])
    first = whole.text[0]
    assert len(complete(stop=first, min_tokens=10)[0].token_ids) > 10


def test_max_tokens_is_exact(complete):
    for count in (1, 2, 13):
        (output,) = complete(max_tokens=count)
        assert (len(output.token_ids), output.finish_reason) == (count, "length")


# Text


def test_special_tokens_are_shown_on_demand(complete):
    bias = {"logit_bias": {END: 1e6}, "ignore_eos": True, "max_tokens": 2}
    assert complete(**bias)[0].text == ""
    assert complete(**bias, skip_special_tokens=False)[0].text == "<|end|><|end|>"


def test_without_detokenization_there_are_only_tokens(complete):
    assert complete(detokenize=False)[0].text == ""
    assert complete(detokenize=False)[0].token_ids == complete()[0].token_ids


def test_a_character_of_several_tokens_is_whole(llm, complete):
    ids = llm.model.tokenizer.encode("日")
    assert len(ids) == 3
    forced = {"allowed_token_ids": ids, "bad_words": []}
    outputs = complete(**forced, max_tokens=40)
    assert outputs[0].text == llm.model.tokenizer.decode(outputs[0].token_ids)


# Log-probabilities


@pytest.mark.parametrize("count", [0, 1, 5])
def test_logprobs_are_transformers_s(tiny, llm, complete, prompt_ids, count):
    (output,) = complete(logprobs=count)
    expected = log_softmax_rows(tiny[1], prompt_ids + output.token_ids)[len(prompt_ids) - 1 : -1]
    for entry, token, row in zip(output.logprobs, output.token_ids, expected, strict=True):
        assert_entry(entry, token, row, count, llm.model.tokenizer)
    assert output.cumulative_logprob == pytest.approx(sum(e.logprob for e in chosen(output)))


@pytest.mark.parametrize("count", [0, 3])
def test_prompt_logprobs_are_transformers_s(tiny, llm, prompt_ids, count):
    params = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=count)
    (output,) = llm.generate(TEXT, params, use_tqdm=False)
    expected = log_softmax_rows(tiny[1], prompt_ids)
    first, *others = output.prompt_logprobs
    assert first is None
    for entry, token, row in zip(others, prompt_ids[1:], expected[:-1], strict=True):
        assert_entry(entry, token, row, count, llm.model.tokenizer)


def log_softmax_rows(model, tokens):
    return [log_softmax(row) for row in transformers_logits(model, tokens)]


def assert_entry(entry, token, row, count, tokenizer):
    """`entry` has the token and the `count` likeliest ones of `row`, with their ranks and texts."""
    top = np.argsort(-row)[:count].tolist()
    assert set(entry) == {token, *top}
    assert next(iter(entry)) == token
    for other, found in entry.items():
        assert found.logprob == pytest.approx(row[other], abs=1e-4)
        assert found.rank == 1 + (row > row[other]).sum()
        assert found.decoded_token == tokenizer.token(other)


def test_logprobs_are_of_the_model_whatever_the_sampling(tiny, complete, prompt_ids):
    sampled = {"temperature": 1.7, "top_k": 30, "presence_penalty": 1.0, "seed": 4, "logit_bias": {8: 3.0}}
    (output,) = complete(**sampled, logprobs=0)
    rows = log_softmax_rows(tiny[1], prompt_ids + output.token_ids)[len(prompt_ids) - 1 :]
    for found, token, row in zip(chosen(output), output.token_ids, rows, strict=False):
        assert found.logprob == pytest.approx(row[token], abs=1e-4)


# What may be chosen


def test_a_bias_can_force_or_forbid_a_token(complete):
    (whole,) = complete()
    assert complete(logit_bias={42: 1e6}, max_tokens=3)[0].token_ids == [42] * 3
    assert complete(logit_bias={whole.token_ids[0]: -1e6})[0].token_ids[0] != whole.token_ids[0]


def test_only_allowed_tokens_are_chosen(complete):
    allowed = [5, 6, 250]
    (output,) = complete(temperature=2.0, seed=1, allowed_token_ids=allowed, max_tokens=50)
    assert set(output.token_ids) == set(allowed)


def test_a_bad_word_never_appears(llm, complete):
    encode = llm.model.tokenizer.encode
    (those,), (a, b) = encode(" those"), encode("Q7")
    assert those in complete(max_tokens=60)[0].token_ids
    assert those not in complete(max_tokens=60, bad_words=["those"])[0].token_ids
    letters = {"temperature": 1.0, "seed": 2, "allowed_token_ids": [a, b], "max_tokens": 60}
    assert (a, b) in pairwise(complete(**letters)[0].token_ids)
    (banned,) = complete(**letters, bad_words=["Q7"])
    assert (a, b) not in pairwise(banned.token_ids)


SAMPLING = {
    "temperature": {"temperature": 0.7},
    "top_k": {"temperature": 1.0, "top_k": 5},
    "top_p": {"temperature": 1.3, "top_p": 0.4},
    "min_p": {"temperature": 1.3, "min_p": 0.3},
    "all of them": {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    "repetition penalty": {"temperature": 0.6, "repetition_penalty": 1.5},
    "greedy repetition penalty": {"repetition_penalty": 1.8},
    "presence penalty": {"temperature": 0.6, "presence_penalty": 1.5},
    "frequency penalty": {"presence_penalty": -1.0, "frequency_penalty": 2.0},
    "reward": {"temperature": 0.8, "presence_penalty": -2.0, "frequency_penalty": -0.5},
}


@pytest.mark.parametrize("params", SAMPLING.values(), ids=SAMPLING)
def test_tokens_are_those_of_the_reference_sampler(tiny, complete, prompt_ids, params):
    for seed in (0, 1, 2**64 - 1):
        given = {"temperature": 0, **params, "seed": seed}
        request = RuleRequest(params=SamplingParams(**given), vocab_size=VOCAB, prompt_token_ids=prompt_ids)
        reference = ReferenceSampler(sampler_options(request), seed)

        def choose(logits, sampler=reference):
            token = sampler.sample(logits).token
            sampler.accept(token)
            return token

        assert complete(**given, ignore_eos=True)[0].token_ids == reference_tokens(tiny[1], prompt_ids, choose, 24)


# Several completions


def test_n_completions_differ_and_have_their_places(complete):
    outputs = complete(n=4, temperature=1.0, seed=9)
    assert [output.index for output in outputs] == [0, 1, 2, 3]
    assert len({tuple(output.token_ids) for output in outputs}) == 4


def test_the_same_seed_gives_the_same_text_and_another_does_not(complete):
    texts = [complete(temperature=1.0, seed=seed, n=2) for seed in (3, 3, 4)]
    first, again, other = ([output.token_ids for output in outputs] for outputs in texts)
    assert first == again
    assert not {map(tuple, first)} & {map(tuple, other)}


def test_without_a_seed_texts_differ(complete):
    assert complete(temperature=1.0)[0].token_ids != complete(temperature=1.0)[0].token_ids


def test_best_of_returns_the_likeliest_of_its_samples(complete):
    every = complete(n=6, temperature=1.0, seed=5, logprobs=0, ignore_eos=True)
    best = complete(n=2, best_of=6, temperature=1.0, seed=5, logprobs=0, ignore_eos=True)
    ranked = sorted(every, key=lambda output: -output.cumulative_logprob)
    assert [output.token_ids for output in best] == [output.token_ids for output in ranked[:2]]
    assert [output.index for output in best] == [0, 1]


def test_samples_end_one_by_one(complete):
    outputs = complete(n=5, temperature=1.0, seed=2, stop_token_ids=list(range(0, 500, 9)), max_tokens=200)
    assert len({len(output.token_ids) for output in outputs}) > 2
    for output in outputs:
        assert (output.finish_reason == "stop") == (output.token_ids[-1] % 9 == 0 or output.token_ids[-1] == END)
