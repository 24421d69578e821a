"""Logits of tiny random checkpoints of the whole family, beside transformers' on the same weights."""

import numpy as np
import pytest
import torch

from checkpoints import K_QUANTS, edit_config, save_checkpoint, save_gguf, transformers_logits
from harness import error, logits_of, make_native, make_torch, random_tokens
from octavo.models import load_declaration, open_model
from octavo.models.llama import Llama
from octavo.weights.bind import bind
from reference import reference_logits

TOKENS = random_tokens(100, vocab=301)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 32,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 2.5, 4.0, 8.0],
}

VARIANTS = {
    "Llama 2": {"num_key_value_heads": 6, "rms_norm_eps": 1e-5},
    "Llama 3": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "Llama 3.1": {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 32}},
    "TinyLlama": {"num_attention_heads": 8, "num_key_value_heads": 1},
    "SmolLM2": {
        "tie_word_embeddings": True,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "hidden_size": 72,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "Mistral": {"kind": "mistral", "sliding_window": None},
    "Mistral, sliding window": {"kind": "mistral", "sliding_window": 16},
    "Yi": {"num_attention_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0}},
    "attention bias": {"attention_bias": True},
    "MLP bias": {"mlp_bias": True},
    "a head dimension of its own": {"head_dim": 20},
    "no size a multiple of 16": {"hidden_size": 60, "intermediate_size": 55, "num_hidden_layers": 3},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "factor": 3.0}},
    "dynamic rope": {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0}},
    "yarn": {"rope_parameters": YARN},
    "yarn, other ramp": {"rope_parameters": {**YARN, "beta_fast": 8, "beta_slow": 2, "truncate": False}},
    "yarn, attention factor": {"rope_parameters": {**YARN, "attention_factor": 0.8}},
    "yarn, mscale": {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    "longrope": {"rope_parameters": LONGROPE},
    "longrope, attention factor": {"rope_parameters": {**LONGROPE, "attention_factor": 1.2}},
}


@pytest.fixture
def octavo_logits(executor):
    """The logits of a checkpoint after every token, on both executors."""
    make = {"native": make_native, "torch": make_torch}

    def run(path, tokens, dtype="float32", max_model_len=None):
        checkpoint = open_model(path)
        model = load_declaration(checkpoint.config, path / "config.json", max_model_len)
        graph = model.build()
        tensors = bind(graph.weights, checkpoint, model.ignored)
        return logits_of(make[executor](graph, tensors, dtype), tokens)

    return run


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_checkpoint_s_logits_are_transformers_s(octavo_logits, tmp_path, config):
    model = save_checkpoint(tmp_path, **config)
    assert error(octavo_logits(tmp_path, TOKENS), transformers_logits(model, TOKENS)) < 1e-4


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_reference_interpreter_agrees_with_transformers(tmp_path, config):
    model = save_checkpoint(tmp_path, **config)
    checkpoint = open_model(tmp_path)
    graph = load_declaration(checkpoint.config, tmp_path / "config.json").build()
    expected = transformers_logits(model, TOKENS)
    assert error(reference_logits(graph, checkpoint.tensors, TOKENS), expected) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_checkpoints_keep_their_exact_values(octavo_logits, tmp_path, dtype):
    model = save_checkpoint(tmp_path, dtype=dtype)
    assert error(octavo_logits(tmp_path, TOKENS), transformers_logits(model, TOKENS)) < 1e-4


def test_in_bfloat16_logits_are_close(octavo_logits, tmp_path):
    model = save_checkpoint(tmp_path, dtype=torch.bfloat16)
    assert error(octavo_logits(tmp_path, TOKENS, "bfloat16"), transformers_logits(model, TOKENS)) < 3e-2


def test_a_sharded_checkpoint_is_read_like_a_whole_one(octavo_logits, tmp_path):
    model = save_checkpoint(tmp_path, shard="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert error(octavo_logits(tmp_path, TOKENS), transformers_logits(model, TOKENS)) < 1e-4


@pytest.mark.parametrize("name", Llama.architectures)
def test_the_family_s_architecture_names_are_known(octavo_logits, tmp_path, name):
    model = save_checkpoint(tmp_path)
    edit_config(tmp_path, architectures=[name])
    assert error(octavo_logits(tmp_path, TOKENS), transformers_logits(model, TOKENS)) < 1e-4


def to_old_form(entry):
    """rope_parameters as it was before transformers 5: rope_scaling, and rope_theta beside it."""
    scaling = {name: value for name, value in entry.items() if name != "rope_theta"}
    scaling["type"] = scaling.pop("rope_type")
    return {"rope_scaling": scaling, "rope_theta": entry["rope_theta"], "rope_parameters": None}


@pytest.mark.parametrize("name", ["Llama 3.1", "linear rope", "yarn", "longrope"])
def test_older_files_spell_rope_otherwise_and_mean_the_same(octavo_logits, tmp_path, name):
    save_checkpoint(tmp_path, **VARIANTS[name])
    new = octavo_logits(tmp_path, TOKENS)
    edit_config(tmp_path, **to_old_form(open_model(tmp_path).config["rope_parameters"]))
    np.testing.assert_array_equal(octavo_logits(tmp_path, TOKENS), new)


def test_longrope_s_factors_follow_max_model_len_not_the_prompt(octavo_logits, tmp_path):
    """transformers changes them while a text grows, and so the meaning of keys that it has stored."""
    model = save_checkpoint(tmp_path, rope_parameters=LONGROPE)
    short = TOKENS[:32]
    assert error(octavo_logits(tmp_path, short, max_model_len=32), transformers_logits(model, short)) < 1e-4
    assert error(octavo_logits(tmp_path, short, max_model_len=33), transformers_logits(model, short)) > 1e-2
    long = octavo_logits(tmp_path, TOKENS, max_model_len=128)
    assert error(octavo_logits(tmp_path, short, max_model_len=128), long[:32]) < 1e-6


def test_dynamic_rope_is_stretched_for_max_model_len(tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    model = save_checkpoint(tmp_path, rope_parameters={"rope_type": "dynamic", "factor": 3.0})
    config = open_model(tmp_path).config
    for length in (100, 128, 300):
        expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](model.config, "cpu", seq_len=length)
        table = load_declaration(config, "config.json", length).ropes[0]
        np.testing.assert_allclose(table.inverse_frequencies, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4", *K_QUANTS]
)
def test_a_gguf_file_s_logits_are_those_of_its_values(octavo_logits, tmp_path, kind):
    model = save_gguf(tmp_path / "model.gguf", kind)
    found = octavo_logits(tmp_path / "model.gguf", TOKENS)
    assert error(found, transformers_logits(model, TOKENS)) < 1e-4
