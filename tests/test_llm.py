"""LLM: prompts in all forms, what comes back, and what is refused. On a tiny random model."""

import json
import logging
import math

import numpy as np
import pytest

from checkpoints import reference_tokens, save_gguf
from cli.conftest import make_tiny_llama
from harness import spoil
from octavo import LLM, SamplingParams
from octavo.errors import (
    ChatTemplateError,
    ConfigError,
    ModelLoadError,
    NumericalError,
    ParameterError,
    PromptError,
    PromptTooLongError,
    RequestError,
    UnsupportedError,
)

TEXT = "Ask not what your country"
GREEDY = SamplingParams(temperature=0, max_tokens=10)


def generate(llm, prompts, params=GREEDY, **options):
    return llm.generate(prompts, params, use_tqdm=False, **options)


def tokens_of(outputs):
    return [output.outputs[0].token_ids for output in outputs]


# What is generated


def test_greedy_tokens_are_transformers_s(llm, tiny):
    prompt = llm.model.tokenizer.encode(TEXT)
    expected = reference_tokens(tiny[1], prompt, lambda logits: int(logits.argmax()), 10)
    assert tokens_of(generate(llm, TEXT)) == [expected]


def test_a_prompt_means_the_same_in_every_form(llm):
    ids = llm.model.tokenizer.encode(TEXT)
    expected = tokens_of(generate(llm, TEXT))
    single = [ids, tuple(ids), np.array(ids), {"prompt": TEXT}, {"prompt_token_ids": ids}]
    for form in single:
        assert tokens_of(generate(llm, form)) == expected
        assert tokens_of(generate(llm, [form, form])) == expected * 2
    assert tokens_of(generate(llm, [TEXT, ids, {"prompt_token_ids": np.array(ids)}])) == expected * 3
    assert tokens_of(generate(llm, None, prompt_token_ids=ids)) == expected
    assert tokens_of(generate(llm, None, prompt_token_ids=[ids, ids])) == expected * 2


def test_outputs_come_in_the_order_of_the_prompts(llm):
    lengths = [9, 1, 5, 12, 3]
    params = [SamplingParams(temperature=0, max_tokens=n) for n in lengths]
    outputs = generate(llm, [f"{TEXT} {n}" for n in lengths], params)
    assert [output.prompt for output in outputs] == [f"{TEXT} {n}" for n in lengths]
    assert [len(tokens) for tokens in tokens_of(outputs)] == lengths


def test_no_prompts_give_no_outputs(llm):
    assert generate(llm, []) == []


def test_an_output_has_all_fields(llm):
    (output,) = generate(llm, TEXT, SamplingParams(temperature=0, max_tokens=3, logprobs=0))
    assert output.prompt == TEXT
    assert output.prompt_token_ids == llm.model.tokenizer.encode(TEXT)
    assert (output.prompt_logprobs, output.finished, output.error) == (None, True, None)
    assert output.num_cached_tokens == 0
    times = output.metrics
    assert times.arrival_time <= times.first_scheduled_time <= times.first_token_time <= times.finished_time
    (completion,) = output.outputs
    assert (completion.index, completion.finish_reason, completion.stop_reason) == (0, "length", None)
    assert completion.finished()
    assert completion.text == llm.model.tokenizer.decode(completion.token_ids)
    logprobs = [entry[token].logprob for entry, token in zip(completion.logprobs, completion.token_ids, strict=True)]
    assert completion.cumulative_logprob == pytest.approx(sum(logprobs))


def test_request_ids_are_never_used_twice(llm):
    outputs = generate(llm, [TEXT, TEXT]) + generate(llm, [TEXT])
    assert len({output.request_id for output in outputs}) == 3


def test_a_repeated_prompt_is_found_in_the_prefix_cache(llm):
    long = " ".join([TEXT] * 8)
    first, second = generate(llm, long), generate(llm, long)
    assert first[0].num_cached_tokens == 0
    assert second[0].num_cached_tokens >= 32
    assert tokens_of(second) == tokens_of(first)


def test_generation_ends_with_the_context(make_llm):
    llm = make_llm(max_model_len=32)
    ids = llm.model.tokenizer.encode(TEXT)
    for max_tokens in (None, 1000):
        (output,) = generate(llm, ids, SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True))
        assert len(output.outputs[0].token_ids) == 32 - len(ids)
        assert output.outputs[0].finish_reason == "length"


def test_a_stream_s_pieces_are_the_whole_text(llm):
    params = SamplingParams(temperature=0.9, seed=3, max_tokens=30)
    pieces = list(llm.stream(TEXT, params))
    (whole,) = generate(llm, TEXT, params)
    assert len(pieces) > 20
    assert "".join(piece.outputs[0].text for piece in pieces) == whole.outputs[0].text
    assert [token for piece in pieces for token in piece.outputs[0].token_ids] == whole.outputs[0].token_ids
    assert [piece.finished for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_stream_that_is_left_leaves_nothing_behind(llm):
    stream = llm.stream(TEXT, SamplingParams(max_tokens=30))
    next(stream)
    stream.close()
    assert not llm.engine.has_work
    assert llm.engine.scheduler.block_usage == 0


def test_streams_may_take_turns_with_each_other_and_with_generate(llm):
    params = SamplingParams(temperature=0, max_tokens=10)
    prompts = [TEXT, f"{TEXT}!"]
    expected = tokens_of(generate(llm, prompts, params))
    found = [[], []]
    for outputs in zip(*(llm.stream(prompt, params) for prompt in prompts), strict=True):
        for tokens, output in zip(found, outputs, strict=True):
            tokens += output.outputs[0].token_ids
        assert tokens_of(generate(llm, TEXT, params)) == expected[:1]
    assert found == expected
    assert not llm.engine.has_work


# Chat


def test_chat_renders_the_model_s_template(llm):
    messages = [{"role": "user", "content": "Hello"}]
    (output,) = llm.chat(messages, GREEDY, use_tqdm=False)
    assert output.prompt == "<|begin|><user>Hello<|end|><assistant>"
    assert output.prompt_token_ids == llm.model.tokenizer.encode(output.prompt)
    assert tokens_of([output]) == tokens_of(generate(llm, output.prompt_token_ids))


def test_chat_takes_several_conversations_and_a_template(llm):
    chats = [[{"role": "user", "content": text}] for text in ("One", "Two")]
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    outputs = llm.chat(chats, GREEDY, use_tqdm=False, chat_template=template)
    assert [output.prompt for output in outputs] == ["[One]", "[Two]"]
    outputs = llm.chat(chats, GREEDY, use_tqdm=False, add_generation_prompt=False)
    assert [output.prompt for output in outputs] == ["<|begin|><user>One<|end|>", "<|begin|><user>Two<|end|>"]


def test_the_engine_s_template_may_be_text_or_a_file(make_llm, tmp_path):
    template = "{% for m in messages %}({{ m.content }}){% endfor %}"
    file = tmp_path / "template.jinja"
    file.write_text(template)
    for given in (template, str(file)):
        (output,) = make_llm(chat_template=given).chat([{"role": "user", "content": "Hi"}], GREEDY, use_tqdm=False)
        assert output.prompt == "(Hi)"
    with pytest.raises(ConfigError, match=r"chat_template.*can't be read"):
        make_llm(chat_template=str(tmp_path / "missing.jinja"))


def test_chat_without_a_template_says_what_to_pass(llm, monkeypatch, tiny, tmp_path):
    copy = copy_model(tiny[0], tmp_path, {"tokenizer_config.json": {"eos_token": "<|end|>"}})
    with pytest.raises(ChatTemplateError, match="chat_template"):
        LLM(str(copy)).chat([{"role": "user", "content": "Hi"}], GREEDY, use_tqdm=False)


# Errors


def test_a_single_bad_prompt_raises(llm):
    for prompt, kind, message in (
        ("", PromptError, "empty"),
        ([1, 500], PromptError, r"token id 500 is outside the vocabulary; ids are 0\.\.499"),
        ([1, -1], PromptError, "token id -1"),
        ([1] * 256, PromptTooLongError, "256 tokens, but the prompt has 256"),
        ({"prompt": "a", "image": 1}, PromptError, "image"),
        ({"prompt": 3}, PromptError, "got int"),
        ({}, PromptError, "NoneType"),
        (3, PromptError, "got int"),
        (None, PromptError, "NoneType"),
        ("\ud800", PromptError, "surrogates"),
    ):
        with pytest.raises(kind, match=message):
            generate(llm, prompt)
        assert not llm.engine.has_work


def test_of_a_list_only_the_bad_prompts_fail(llm):
    prompts = ["", TEXT, [], [1, 500], {"prompt_token_ids": [1] * 300}, TEXT, [1.5], {"prompt": None}]
    outputs = generate(llm, prompts)
    errors = [type(output.error) for output in outputs]
    good, bad = type(None), PromptError
    assert errors == [bad, good, bad, bad, PromptTooLongError, good, bad, bad]
    for output in outputs:
        assert output.finished
        assert output.outputs[0].finish_reason == ("length" if output.error is None else "error")
    assert tokens_of(outputs[5:6]) == tokens_of(generate(llm, TEXT))


def test_what_concerns_all_prompts_raises(llm):
    with pytest.raises(PromptError, match="not both"):
        generate(llm, TEXT, prompt_token_ids=[1])
    with pytest.raises(PromptError, match="1 sampling_params were given for 2 prompts"):
        generate(llm, [TEXT, TEXT], [GREEDY])
    with pytest.raises(PromptError, match="priority has 1 entries for 2 prompts"):
        generate(llm, [TEXT, TEXT], priority=[1])
    with pytest.raises(UnsupportedError, match="lora_request"):
        generate(llm, TEXT, lora_request=object())
    with pytest.raises(UnsupportedError, match="lora_request"):
        llm.chat([{"role": "user", "content": "Hi"}], GREEDY, lora_request=object())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"logprobs": 21}, "logprobs must be at most 20"),
        ({"prompt_logprobs": -1}, "prompt_logprobs must be at most 20"),
        ({"logit_bias": {500: 1}}, "logit_bias must be token ids below 500, .* got 500"),
        ({"allowed_token_ids": [3, 777]}, "allowed_token_ids must be .*, got 777"),
        ({"stop_token_ids": [500]}, "stop_token_ids must be .*, got 500"),
    ],
)
def test_parameters_that_do_not_fit_the_model_are_refused(llm, params, message):
    with pytest.raises(ParameterError, match=message):
        generate(llm, TEXT, SamplingParams(**params))


def test_max_logprobs_lifts_the_limit(make_llm):
    (output,) = generate(make_llm(max_logprobs=-1), TEXT, SamplingParams(temperature=0, max_tokens=1, logprobs=-1))
    (entry,) = output.outputs[0].logprobs
    assert len(entry) == 500
    assert sum(math.exp(e.logprob) for e in entry.values()) == pytest.approx(1)


def test_more_sequences_than_seats_are_refused(llm):
    with pytest.raises(RequestError, match="needs 17 sequences at once, but max_num_seqs is 16"):
        generate(llm, TEXT, SamplingParams(n=17))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        SamplingParams(seed=1, max_tokens=10, n=2),
        SamplingParams(temperature=0, best_of=3, use_beam_search=True),
    ],
)
def test_nan_logits_fail_that_request_alone(llm, monkeypatch, params, value):
    expected = tokens_of(generate(llm, [TEXT, TEXT + "!"]))
    spoil(llm.model.executor, monkeypatch, value, lambda num_tokens: num_tokens > 60)
    long = " ".join([TEXT] * 6)
    outputs = llm.generate([TEXT, long, TEXT + "!"], [GREEDY, params, GREEDY], use_tqdm=False)
    assert [type(output.error) for output in outputs] == [type(None), NumericalError, type(None)]
    assert all(completion.finish_reason == "error" for completion in outputs[1].outputs)
    assert tokens_of([outputs[0], outputs[2]]) == expected
    assert llm.engine.scheduler.block_usage == 0
    with pytest.raises(NumericalError, match="NaN"):
        llm.generate(long, params, use_tqdm=False)


def test_an_interrupt_leaves_the_engine_clean(llm, monkeypatch):
    expected = tokens_of(generate(llm, [TEXT] * 3))
    run, calls = llm.model.executor.run, []

    def interrupted(step):
        calls.append(step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(step)

    monkeypatch.setattr(llm.model.executor, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(llm, [TEXT] * 20, SamplingParams(max_tokens=50))
    assert not llm.engine.has_work
    assert not llm.engine.scheduler.has_work
    assert llm.engine.scheduler.block_usage == 0
    assert tokens_of(generate(llm, [TEXT] * 3)) == expected


# Options


def copy_model(source, target, files):
    """A copy of a model's directory, in which some JSON files have other contents."""
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    for name, contents in files.items():
        (target / name).write_text(json.dumps(contents))
    return target


def test_defaults_come_from_generation_config(tiny, tmp_path):
    values = {"temperature": 0.6, "top_k": 40, "top_p": 0.9, "max_new_tokens": 5, "eos_token_id": [9, 10]}
    copy = copy_model(tiny[0], tmp_path, {"generation_config.json": values})
    llm = LLM(str(copy))
    defaults = llm.get_default_sampling_params()
    assert (defaults.temperature, defaults.top_k, defaults.top_p, defaults.max_tokens) == (0.6, 40, 0.9, 5)
    assert set(llm.model.eos_token_ids) == {1, 9, 10}
    assert len(llm.generate(TEXT, use_tqdm=False)[0].outputs[0].token_ids) <= 5
    assert LLM(str(copy), generation_config="vllm").get_default_sampling_params() == SamplingParams()
    assert LLM(str(tiny[0]), generation_config=str(copy)).get_default_sampling_params() == defaults
    with pytest.raises(ConfigError, match="has no generation_config"):
        LLM(str(copy), generation_config=str(tmp_path / "elsewhere"))


def test_bad_generation_defaults_are_the_file_s_fault(tiny, tmp_path):
    copy = copy_model(tiny[0], tmp_path, {"generation_config.json": {"top_p": 7}})
    with pytest.raises(ModelLoadError, match=r"generation_config.json: top_p"):
        LLM(str(copy)).get_default_sampling_params()


def test_a_gguf_brings_its_authors_advice(tmp_path):
    file = tmp_path / "m.gguf"
    save_gguf(file, "F32", temp=0.7, penalty_repeat=1.05)
    options = {"model": str(file), "tokenizer": str(make_tiny_llama(tmp_path / "tokenizer"))}
    advised = LLM(**options).get_default_sampling_params()
    assert advised == SamplingParams(temperature=0.7, repetition_penalty=1.05)
    assert LLM(**options, generation_config="vllm").get_default_sampling_params() == SamplingParams()
    save_gguf(file, "F32", temp=0.7, top_p=7)
    with pytest.raises(ModelLoadError, match=r"m\.gguf: top_p: top_p must be"):
        LLM(**options)


def test_the_default_model_brings_its_authors_advice(real_model):
    advised = LLM(str(real_model)).get_default_sampling_params()
    assert advised == SamplingParams(temperature=0.2, top_p=0.9)
    assert LLM(str(real_model), generation_config="vllm").get_default_sampling_params() == SamplingParams()


def test_what_a_file_says_of_sampling_goes_before_what_is_known_of_the_model(tiny, tmp_path):
    place = tmp_path / "SmolLM2-135M-Instruct"
    place.mkdir()
    copy = copy_model(tiny[0], place, {"generation_config.json": {"max_new_tokens": 5}})
    assert LLM(str(copy)).get_default_sampling_params() == SamplingParams(temperature=0.2, top_p=0.9, max_tokens=5)
    (copy / "generation_config.json").write_text('{"temperature": 0.6}')
    assert LLM(str(copy)).get_default_sampling_params() == SamplingParams(temperature=0.6)


@pytest.mark.parametrize("name", ["temperature", "eos_token_id"])
def test_end_tokens_of_generation_config_end_a_text(tiny, tmp_path, llm, name):
    tokens = tokens_of(generate(llm, TEXT))[0]
    copy = copy_model(tiny[0], tmp_path, {"generation_config.json": {"eos_token_id": [tokens[4]]}})
    (output,) = generate(LLM(str(copy), dtype="float32"), TEXT)
    end = tokens.index(tokens[4])
    assert output.outputs[0].token_ids == tokens[: end + 1]
    assert output.outputs[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel_size": 2}, "tensor_parallel_size=2: one device"),
        ({"quantization": "int3"}, "quantization='int3': not supported; .* int8, int4, fp8, .* awq, .* gptq, "),
        ({"enable_lora": True}, "LoRA"),
        ({"kv_cache_dtype": "fp8_ds_mla"}, "kv_cache_dtype='fp8_ds_mla': the native executor has auto, bfloat16, int8"),
    ],
)
def test_options_for_what_is_not_there_are_refused(tiny, options, message):
    with pytest.raises(UnsupportedError, match=message):
        LLM(str(tiny[0]), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_model_length": 5}, "no such option; did you mean max_model_len"),
        ({"max_model_len": 0}, "max_model_len=0: must be an integer of at least 1"),
        ({"max_model_len": 257}, "made for at most 256 tokens"),
        ({"max_num_seqs": "4"}, "max_num_seqs='4'"),
        ({"dtype": "int8"}, "must be one of .*bfloat16"),
        ({"block_size": 24}, "must be one of 16, 32"),
        ({"gpu_memory_utilization": 1.5}, "at most 1"),
        ({"enable_prefix_caching": 1}, "must be one of True, False"),
        ({"seed": 1.5}, "must be an integer"),
        ({"scheduling_policy": "lottery"}, "fcfs, priority"),
    ],
)
def test_bad_options_are_refused(tiny, options, message):
    with pytest.raises(ConfigError, match=message):
        LLM(str(tiny[0]), **options)


def test_options_without_a_meaning_here_are_noted_once(tiny, caplog):
    with caplog.at_level(logging.WARNING, "octavo"):
        LLM(str(tiny[0]), trust_remote_code=True, swap_space=8, worker_cls="auto", tensor_parallel_size=1)
    assert len(caplog.messages) == 2
    assert any("trust_remote_code=True: no code of a checkpoint" in message for message in caplog.messages)


def test_the_engine_s_seed_makes_unseeded_requests_repeatable(make_llm):
    params = SamplingParams(max_tokens=12)
    first, second, third = (tokens_of(generate(make_llm(seed=seed), [TEXT, TEXT], params)) for seed in (5, 5, 6))
    assert first == second != third
    assert first[0] != first[1]


def test_a_smaller_step_or_cache_changes_no_token(make_llm):
    prompts = [f"{TEXT} {i}" for i in range(12)]
    expected = tokens_of(generate(make_llm(), prompts))
    for options in (
        {"max_num_batched_tokens": 16},
        {"max_num_seqs": 1},
        {"num_gpu_blocks_override": 3},
        {"enable_chunked_prefill": False},
        {"enable_prefix_caching": False},
        {"block_size": 64},
        {"scheduling_policy": "priority"},
    ):
        assert tokens_of(generate(make_llm(**options), prompts)) == expected


def test_smaller_priorities_are_served_first(make_llm):
    llm = make_llm(scheduling_policy="priority", max_num_seqs=1)
    outputs = generate(llm, [TEXT] * 3, priority=[2, 0, 1])
    ends = [output.metrics.finished_time for output in outputs]
    assert ends[1] < ends[2] < ends[0]
