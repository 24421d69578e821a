"""What is said of checkpoints that do not fit their configuration, or that nobody here knows."""

import io
import json
import math
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import SIZES, edit_config, save_checkpoint
from octavo import LLM
from octavo.errors import ModelLoadError, UnknownArchitectureError
from octavo.models import load_declaration, open_model
from octavo.weights import progress
from octavo.weights.bind import bind

CONFIG = {**SIZES, "architectures": ["LlamaForCausalLM"]}
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def load(path):
    checkpoint = open_model(path)
    model = load_declaration(checkpoint.config, path / "config.json")
    return bind(model.build().weights, checkpoint, model.ignored)


def edit_weights(path, edit):
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file(tensors, path / "model.safetensors")


def test_a_missing_weight_is_named_with_its_shape(tmp_path):
    save_checkpoint(tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.pop(Q_PROJ))
    with pytest.raises(ModelLoadError, match=rf"{Q_PROJ}: is missing; it should have shape \(48, 48\)"):
        load(tmp_path)


def test_a_left_over_weight_is_named(tmp_path):
    save_checkpoint(tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.update({"model.layers.1.extra.weight": np.zeros(3, np.float32)}))
    with pytest.raises(ModelLoadError, match=r"model.layers.1.extra.weight: is left over"):
        load(tmp_path)


def test_a_misshapen_weight_is_named_with_both_shapes(tmp_path):
    save_checkpoint(tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.update({Q_PROJ: np.zeros((48, 40), np.float32)}))
    with pytest.raises(ModelLoadError, match=rf"{Q_PROJ}: has shape \(48, 40\), .* \(48, 48\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "model.layers.1."),
        ({"vocab_size": 300}, "model.embed_tokens.weight"),
        ({"tie_word_embeddings": True, "vocab_size": 300}, "model.embed_tokens.weight"),
        ({"attention_bias": True}, "model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(tmp_path, change, name):
    save_checkpoint(tmp_path)
    edit_config(tmp_path, **change)
    with pytest.raises(ModelLoadError, match=name):
        load(tmp_path)


@pytest.mark.parametrize("shape", [(0,), (2**32 - 1, 0)])
def test_even_a_weight_that_is_not_needed_must_have_the_shape_of_one(tmp_path, shape):
    save_checkpoint(tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, weights = json.loads(data[8 : 8 + length]), data[8 + length :]
    end = len(weights) + 4 * math.prod(shape)
    header["lm_head.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(weights), end]}
    written = json.dumps(header).encode()
    padding = bytes(end - len(weights))
    file.write_bytes(len(written).to_bytes(8, "little") + written + weights + padding)
    with pytest.raises(ModelLoadError, match=r"lm_head.weight: has shape .*, which no weight has"):
        load(tmp_path)


def test_what_old_checkpoints_store_needlessly_is_ignored(tmp_path):
    save_checkpoint(tmp_path, tie_word_embeddings=True)
    shapes = {"model.layers.0.self_attn.rotary_emb.inv_freq": 4, "lm_head.weight": (301, 48)}
    shapes |= {"model.layers.0.attn.bias": (1, 1, 8, 8), "model.layers.0.attn.masked_bias": ()}
    extra = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    edit_weights(tmp_path, lambda tensors: tensors.update(extra))
    assert "lm_head.weight" not in load(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_without_logits_has_names_without_their_first_part(tmp_path, tied):
    save_checkpoint(tmp_path, tie_word_embeddings=tied)
    whole = load(tmp_path)
    edit_weights(
        tmp_path,
        lambda tensors: [tensors.update({name.removeprefix("model."): tensors.pop(name)}) for name in list(tensors)],
    )
    assert load(tmp_path).keys() == whole.keys()


@pytest.mark.parametrize("names", [["GPT3LMHeadModel"], "GPT3LMHeadModel"])
def test_an_unknown_architecture_is_refused_with_the_nearest(names):
    with pytest.raises(UnknownArchitectureError, match=r"GPT3LMHeadModel.* is not known here; .*: GPT2LMHeadModel,"):
        load_declaration({**CONFIG, "architectures": names}, "config.json")


@pytest.mark.parametrize("names", [None, [], [1]])
def test_a_configuration_without_an_architecture_is_refused(names):
    with pytest.raises(UnknownArchitectureError, match=r"config.json: architectures: must name an architecture, got "):
        load_declaration({**CONFIG, "architectures": names}, "config.json")


ROPE_BAD = {
    "not an object": ("rope_scaling", 3, "must be an object, got int"),
    "yarn without numbers": ("factor", {"rope_type": "yarn"}, "is missing: type yarn needs it"),
    "a number beyond floats": ("rope_type", {"rope_type": "dynamic", "factor": 1e30, "rope_theta": 1e30}, "not finite"),
    "a division by zero": ("rope_type", {"rope_type": "yarn", "factor": 2, "rope_theta": 1}, "not finite"),
    "an unknown type": ("rope_type", {"rope_type": "ntk"}, "'ntk' is not known; known are .*yarn"),
    "no factor": ("factor", {"rope_type": "linear"}, "positive number.*, got None"),
    "a negative factor": ("factor", {"rope_type": "yarn", "factor": -2}, "positive number.*, got -2"),
    "a list for a number": ("rope_theta", {"rope_theta": [1]}, "positive number"),
    "bounds in the wrong order": (
        "low_freq_factor",
        {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1},
        "less than high_freq_factor",
    ),
    "too few factors": (
        "short_factor",
        {"rope_type": "longrope", "short_factor": [1.0], "original_max_position_embeddings": 128},
        "must be 4 positive numbers",
    ),
    "a factor that is no number": (
        "short_factor",
        {"rope_type": "longrope", "short_factor": [1, 2, 3, "4"], "original_max_position_embeddings": 128},
        "must be 4 positive numbers",
    ),
    "a truncation that is no flag": (
        "truncate",
        {"rope_type": "yarn", "factor": 2, "truncate": "no"},
        "true or false",
    ),
}


@pytest.mark.parametrize(("field", "entry", "reason"), ROPE_BAD.values(), ids=ROPE_BAD)
def test_bad_rope_parameters_are_named(field, entry, reason):
    with pytest.raises(ModelLoadError, match=rf"rope_scaling.*{reason}") as caught:
        load_declaration({**CONFIG, "rope_scaling": entry}, "config.json")
    assert field in caught.value.field


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("hidden_size", None, "must be an integer"),
        ("hidden_size", 0, "must be an integer in 1"),
        ("hidden_size", 48.0, "got 48.0"),
        ("num_hidden_layers", True, "got True"),
        ("num_attention_heads", -1, "got -1"),
        ("vocab_size", 1 << 40, "must be an integer in"),
        ("rms_norm_eps", "small", "positive number of at most 1, got .small."),
        ("rms_norm_eps", 0, "must be a positive number"),
        ("rms_norm_eps", math.inf, "positive number of at most 1, got inf"),
        ("rms_norm_eps", 1e29, "positive number of at most 1, got 1e"),
        ("architectures", "x" * 100_000, "^.{,1000}$"),
        ("hidden_act", "x" * 100_000, "'x+…x+' is not known; known are silu, .*"),
        ("tie_word_embeddings", "yes", "must be true or false, got 'yes'"),
        ("hidden_act", "celu", "'celu' is not known; known are silu, .*gelu"),
        ("sliding_window", 0, "must be an integer in 1"),
        ("head_dim", 7, "even head_dim, got 7"),
        ("head_dim", 2048, "in 1..1024, got 2048"),
        ("num_key_value_heads", 4, "must divide num_attention_heads, which is 6, got 4"),
        ("num_hidden_layers", 1 << 20, "in 1..4096"),
    ],
)
def test_a_bad_entry_of_the_configuration_is_named(field, value, reason):
    with pytest.raises(ModelLoadError, match=reason) as caught:
        load_declaration({**CONFIG, field: value}, "config.json").build()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (None, 512),
        ({"rope_type": "linear", "factor": 4.0}, 2048),
        ({"rope_type": "dynamic", "factor": 2.0}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
    ],
)
def test_interpolated_positions_reach_further_than_the_model_s_own(scaling, longest):
    model = load_declaration({**CONFIG, "max_position_embeddings": 512, "rope_scaling": scaling}, "config.json")
    assert (model.max_positions, model.longest_positions) == (512, longest)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_large", [True, False])
def test_a_bar_is_shown_while_many_weights_are_loaded(tiny, executor, is_large, monkeypatch):
    if is_large:
        monkeypatch.setattr(progress, "_LARGE", 0)
    drawn: set[tuple[int, int]] = set()
    monkeypatch.setattr("tqdm.tqdm.close", lambda bar: drawn.add((bar.n, bar.total)))
    monkeypatch.setattr(sys, "stderr", Screen())
    LLM(str(tiny[0]), executor=executor, dtype="float32")
    assert len(drawn) == is_large
    assert all(0.95 * total < done <= total for done, total in drawn)
