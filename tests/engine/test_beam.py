"""Beam search, token by token what transformers' `generate` finds on the tiny model."""

import pytest
import torch

from checkpoints import transformers_logits
from octavo import LLM, BeamSearchParams, SamplingParams
from octavo.errors import UnsupportedError
from reference_sampler import log_softmax

PROMPTS = ["Ask not", "And so, my fellow Americans:", "Let", "In your hands, my fellow citizens, more than mine"]
MAX_TOKENS = 14
# What ends a hypothesis: so many tokens that some do, at different lengths.
ENDS = list(range(3, 500, 25))


def transformers_beams(model, prompt, width, ends, **options):
    """The `width` best continuations without padding, best first, and their scores."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=499,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    found = []
    for sequence in output.sequences[:, len(prompt) :].tolist():
        end = next((i + 1 for i, token in enumerate(sequence) if token in ends), len(sequence))
        found.append(sequence[:end])
    return found, output.sequences_scores.tolist()


def octavo_beams(llm, prompts, width, ends, **options):
    params = SamplingParams(
        temperature=0,
        use_beam_search=True,
        n=width,
        best_of=width,
        max_tokens=MAX_TOKENS,
        ignore_eos=True,
        stop_token_ids=ends,
        include_stop_str_in_output=True,
        **options,
    )
    return llm.generate(prompts, params, use_tqdm=False)


@pytest.mark.parametrize(
    ("width", "ends"),
    [(2, []), (2, ENDS), (5, [61]), (5, ENDS), (3, list(range(0, 500, 2)))],
    ids=["2 beams, no end", "2 beams, many ends", "5 beams, one end", "5 beams, many ends", "3 beams, half are ends"],
)
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_beams_are_transformers_s(llm, tiny, width, length_penalty, early_stopping, ends):
    options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    outputs = octavo_beams(llm, PROMPTS, width, ends, **options)
    for output in outputs:
        expected, scores = transformers_beams(tiny[1], output.prompt_token_ids, width, ends, **options)
        assert [beam.token_ids for beam in output.outputs] == expected
        for beam, score in zip(output.outputs, scores, strict=True):
            found = beam.cumulative_logprob / len(beam.token_ids) ** length_penalty
            assert found == pytest.approx(score, rel=1e-5)
            assert beam.finish_reason == ("stop" if beam.token_ids[-1] in ends else "length")


def test_a_beam_s_score_is_the_sum_of_its_tokens_logprobs(llm, tiny):
    (output,) = octavo_beams(llm, PROMPTS[:1], 3, [])
    prompt = output.prompt_token_ids
    for beam in output.outputs:
        rows = transformers_logits(tiny[1], prompt + beam.token_ids)[len(prompt) - 1 :]
        total = sum(log_softmax(row)[token] for row, token in zip(rows, beam.token_ids, strict=False))
        assert beam.cumulative_logprob == pytest.approx(total, abs=1e-4)


def test_beams_under_pressure_are_the_same(make_llm, executor):
    def seen(outputs):
        close = pytest.approx if executor == "torch" else float  # only the native executor is the same to the last bit
        return [[(o.token_ids, o.text, close(o.cumulative_logprob)) for o in output.outputs] for output in outputs]

    expected = seen(octavo_beams(make_llm(), PROMPTS, 4, ENDS))
    for options in ({"num_gpu_blocks_override": 13}, {"max_num_seqs": 4}, {"max_num_batched_tokens": 16}):
        assert seen(octavo_beams(make_llm(**options), PROMPTS, 4, ENDS)) == expected


def test_beams_with_an_int8_cache_under_pressure_are_the_same(tiny):
    """Blocks are copied where beams part."""
    found = []
    for options in ({}, {"num_gpu_blocks_override": 13}, {"max_num_batched_tokens": 16}):
        options = {"block_size": 16, "max_num_seqs": 16, **options}
        llm = LLM(str(tiny[0]), executor="native", kv_cache_dtype="int8", **options)
        outputs = octavo_beams(llm, PROMPTS, 4, ENDS)
        found.append([[(o.token_ids, o.cumulative_logprob) for o in output.outputs] for output in outputs])
    assert found[1:] == [found[0]] * 2


def test_beam_search_by_its_own_method_gives_the_same(llm):
    expected = octavo_beams(llm, PROMPTS, 3, [], length_penalty=0.7)
    params = BeamSearchParams(beam_width=3, max_tokens=MAX_TOKENS, ignore_eos=True, length_penalty=0.7)
    found = llm.beam_search(PROMPTS, params)
    assert [output.outputs for output in found] == [output.outputs for output in expected]


def test_a_beam_of_one_is_greedy(llm):
    (output,) = llm.beam_search(PROMPTS[0], BeamSearchParams(beam_width=1, max_tokens=MAX_TOKENS))
    greedy = llm.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=MAX_TOKENS), use_tqdm=False)
    assert [beam.token_ids for beam in output.outputs] == [greedy[0].outputs[0].token_ids]


def test_text_of_a_beam_leaves_out_what_ended_it(llm):
    outputs = llm.generate(
        PROMPTS,
        SamplingParams(temperature=0, use_beam_search=True, best_of=4, max_tokens=MAX_TOKENS, stop_token_ids=ENDS),
        use_tqdm=False,
    )
    stopped = [output.outputs[0] for output in outputs if output.outputs[0].finish_reason == "stop"]
    assert stopped
    for beam in stopped:
        assert beam.stop_reason == beam.token_ids[-1]
        assert beam.text == llm.model.tokenizer.decode(beam.token_ids[:-1])


@pytest.mark.parametrize(
    "options",
    [{"stop": "a"}, {"logprobs": 1}, {"min_tokens": 2}, {"presence_penalty": 1.0}, {"allowed_token_ids": [3]}],
)
def test_what_beam_search_does_not_look_at_is_refused(llm, options):
    params = SamplingParams(temperature=0, use_beam_search=True, best_of=3, **options)
    with pytest.raises(UnsupportedError, match=next(iter(options))):
        llm.generate(PROMPTS[0], params, use_tqdm=False)
    assert not llm.engine.has_work


def test_a_temperature_of_beams_is_refused(llm):
    with pytest.raises(UnsupportedError, match="temperature"):
        llm.beam_search(PROMPTS[0], BeamSearchParams(beam_width=2, max_tokens=4, temperature=0.5))
