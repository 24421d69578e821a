"""Models by transformers' own layers, on the torch executor: tokens beside those of generate, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from checkpoints import edit_config, save_checkpoint, save_tokenizer, transformers_logits
from harness import error, logits_of, make_torch, random_tokens
from octavo import LLM, ConfigError, ModelLoadError, SamplingParams, UnsupportedError
from octavo.engine import planning
from octavo.errors import UnknownArchitectureError
from octavo.executor.torch import kernels
from octavo.executor.torch.transformers_model import TransformersModel

EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
EXPERTS |= {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
KINDS = {  # what transformers calls them, and what differs
    "BitNet": {},
    "CTRL": {},
    "Dots1": EXPERTS,
    "Llama": {},
    "Gemma3Text": {"head_dim": 16, "sliding_window": 16, "num_hidden_layers": 6, "pad_token_id": 0},
}
PROMPTS = [[5, 9, 200, 31, *range(7, 19)], [7, 8], [*range(30, 75)]]
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
SIZES = {"dtype": "float32", "max_model_len": 100, "max_num_seqs": 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, inaugural_text):
    """Makes checkpoints, each once: its path, and the model as transformers reads it."""
    known = {}

    def save(kind):
        if kind not in known:
            path = tmp_path_factory.mktemp(kind)
            model = save_checkpoint(path, kind, **KINDS.get(kind, {}))
            save_tokenizer(path, inaugural_text, vocab_size=300)
            known[kind] = path, model
        return known[kind]

    return save


def run(llm, params=GREEDY):
    prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
    return [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]


def generated(model, prompt, count=20):
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": count}
    return model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_transformers_in_batches_and_in_chunks(saved, kind):
    path, model = saved(kind)
    expected = [generated(model, prompt) for prompt in PROMPTS]
    llm = LLM(str(path), model_impl="transformers", max_num_batched_tokens=7, **SIZES)
    assert run(llm) == expected
    whole = LLM(str(path), model_impl="transformers", enable_prefix_caching=False, **SIZES)
    assert run(whole) == expected
    assert [run_alone(whole, prompt) for prompt in PROMPTS] == expected


def run_alone(llm, prompt):
    (output,) = llm.generate({"prompt_token_ids": prompt}, GREEDY, use_tqdm=False)
    return output.outputs[0].token_ids


def test_a_prompt_s_beginning_is_found_again(saved):
    path, model = saved("BitNet")
    llm = LLM(str(path), model_impl="transformers", block_size=16, **SIZES)
    prompt = [*range(30, 75)]
    for cached in (0, 32):
        (output,) = llm.generate({"prompt_token_ids": prompt}, GREEDY, use_tqdm=False)
        assert output.num_cached_tokens == cached
        assert output.outputs[0].token_ids == generated(model, prompt)


def test_what_comes_after_logits_is_as_for_our_own_models(saved):
    path, _ = saved("Llama")
    params = SamplingParams(n=3, temperature=0.8, top_p=0.9, seed=5, max_tokens=12, logprobs=2, presence_penalty=0.4)
    found = []
    for impl in ("octavo", "transformers"):
        llm = LLM(str(path), model_impl=impl, executor="torch", **SIZES)
        (output,) = llm.generate({"prompt_token_ids": PROMPTS[0]}, params, use_tqdm=False)
        found.append([(one.token_ids, one.cumulative_logprob) for one in output.outputs])
    for (ours, our_sum), (theirs, their_sum) in zip(*found, strict=True):
        assert ours == theirs
        assert abs(our_sum - their_sum) < 1e-3


def test_auto_says_in_one_line_whose_layers_it_takes(saved, caplog):
    path, model = saved("BitNet")
    llm = LLM(str(path), **SIZES)
    assert caplog.messages == [
        "BitNetForCausalLM is not declared here: transformers' own layers run it, on the torch executor"
    ]
    assert llm.model.config.executor == "torch"
    assert run_alone(llm, PROMPTS[0]) == generated(model, PROMPTS[0])


def test_auto_takes_a_declaration_where_there_is_one(saved, caplog):
    assert LLM(str(saved("Llama")[0]), **SIZES).model.config.executor == "native"
    assert caplog.messages == []


def test_the_plan_counts_weights_and_pages(saved):
    path, model = saved("CTRL")
    plan = LLM(str(path), model_impl="transformers", **SIZES).model.plan
    assert plan.weights == pytest.approx(4 * sum(one.numel() for one in model.parameters()), rel=0.03)
    config = model.config
    assert plan.kv_bytes_per_block == (4 * 2 * plan.block_size * config.n_layer * config.n_embd,)


def test_a_model_can_be_told_about_before_it_is_loaded(saved, capsys):
    from octavo.cli.main import main

    assert main(["models", str(saved("BitNet")[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["executor"], found["kind"]) == ("torch", "transformers")
    assert found["declared_by"].startswith("transformers ")


REFUSED = {  # kind, what differs: the reason
    "Mamba": ({}, "keeps a state of its own"),
    "Lfm2": ({"layer_types": ["conv", "full_attention"]}, "is a convolution over tokens"),
    "Bloom": ({}, "lets nobody replace its attention"),
    "DiffLlama": ({}, "is not once for each layer"),
    "Roberta": ({"is_decoder": True, "pad_token_id": 0}, "counts positions from its padding token on"),
    "GptOss": ({"num_local_experts": 4, "head_dim": 8}, "its attention has s_aux"),
    "Llama4Text": ({}, "its mask depends on more than positions"),
    "Llama": ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type 'dynamic'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_more_than_attention_is_refused_by_name(kind, tmp_path):
    config, reason = REFUSED[kind]
    name = type(save_checkpoint(tmp_path, kind, **config)).__name__
    with pytest.raises(UnsupportedError, match=f"model_impl='transformers': .* can't run {name}: .*{reason}"):
        LLM(str(tmp_path), model_impl="transformers")


def test_what_neither_runs_is_refused_with_both_reasons(tmp_path):
    save_checkpoint(tmp_path, "Mamba")
    with pytest.raises(UnknownArchitectureError, match=r"MambaForCausalLM.* not known here; the nearest.* a state of"):
        LLM(str(tmp_path))


def test_what_transformers_does_not_know_either_is_refused(saved, tmp_path):
    edit_config(copy(saved("Llama")[0], tmp_path), architectures=["FancyForCausalLM"])
    with pytest.raises(
        UnknownArchitectureError, match=r"'FancyForCausalLM'\] is not known here; the nearest .* a plugin"
    ):
        LLM(str(tmp_path))
    with pytest.raises(UnsupportedError, match="has no causal language model of this name"):
        LLM(str(tmp_path), model_impl="transformers")


@pytest.mark.parametrize("options", [{"executor": "native"}, {"model_impl": "octavo"}, {"model_impl": "vllm"}])
def test_where_only_ours_may_run_it_is_said_what_would(saved, options):
    with pytest.raises(UnknownArchitectureError, match=r"not known here; the nearest.*model_impl='transformers' may"):
        LLM(str(saved("BitNet")[0]), **options)


def test_where_transformers_is_not_installed_it_is_said_what_would_run_it(saved, monkeypatch):
    monkeypatch.setattr(planning, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(UnknownArchitectureError, match=r"once transformers is there: pip install '\.\[transformers\]'"):
        LLM(str(saved("BitNet")[0]))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"executor": "native"}, "model_impl='transformers': runs on the torch executor"),
        ({"quantization": "int8"}, "model_impl='transformers': .* not quantized"),
        ({"kv_cache_dtype": "int8"}, "kv_cache_dtype='int8'"),
        ({"max_model_len": 129}, "max_model_len=129: the model was made for at most 128"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(saved, options, name):
    with pytest.raises(ConfigError, match=name):
        LLM(str(saved("Llama")[0]), model_impl="transformers", **options)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ConfigError, match="model_impl='terratorch': must be one of auto, octavo, transformers, vllm"):
        LLM("x", model_impl="terratorch")


def copy(source, target):
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.weight"), r"1.mlp.down_proj.weight: is missing"),
        (lambda tensors: tensors.update(more=np.zeros(3, np.float32)), "more: is left over"),
    ],
)
def test_weights_that_do_not_fit_are_named(saved, tmp_path, change, reason):
    path = copy(saved("BitNet")[0], tmp_path)
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=reason):
        LLM(str(path), **SIZES)


def test_the_users_settings_of_transformers_stay(saved):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    LLM(str(saved("BitNet")[0]), **SIZES)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_scores_may_have_a_cap(tmp_path):
    caps = {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0, "head_dim": 16, "sliding_window": 16}
    model = save_checkpoint(tmp_path, "Gemma2", **caps)
    model.set_attn_implementation("eager")
    tokens = random_tokens(60, vocab=301)
    executor = make_torch(TransformersModel(tmp_path, "Gemma2ForCausalLM").build(), {})
    assert error(logits_of(executor, tokens, [7, 53]), transformers_logits(model, tokens)) < 1e-4


def test_the_kernels_of_a_gpu_see_the_same(saved):
    path, model = saved("BitNet")
    graph = TransformersModel(path, "BitNetForCausalLM").build()
    tokens = random_tokens(40, vocab=301)
    executor = make_torch(graph, {}, kernels=kernels)
    assert error(logits_of(executor, tokens, [7, 33]), transformers_logits(model, tokens)) < 1e-4
